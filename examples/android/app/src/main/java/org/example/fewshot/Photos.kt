// From a picture of the gallery or a camera frame to the bytes that a bundle takes.
package org.example.fewshot

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.graphics.Matrix
import android.net.Uri

/**
 * Bytes of a picture of the gallery. ImageDecoder turns it as its EXIF orientation says;
 * BitmapFactory would not.
 */
fun readPixels(resolver: ContentResolver, picture: Uri, shape: ImageShape): ByteArray {
    val source = ImageDecoder.createSource(resolver, picture)
    val bitmap = ImageDecoder.decodeBitmap(source) { decoder, _, _ ->
        decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE // a hardware bitmap hides its pixels
        decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
    }
    return toPixels(bitmap, 0, shape)
}

/**
 * Bytes of a camera frame. With CameraX: `toPixels(proxy.toBitmap(),
 * proxy.imageInfo.rotationDegrees, shape)`, since its frames lie as the sensor saw them.
 */
fun toPixels(bitmap: Bitmap, rotationDegrees: Int, shape: ImageShape): ByteArray {
    val turn = Matrix().apply { postRotate(rotationDegrees.toFloat()) }
    val upright = if (rotationDegrees == 0) bitmap else
        Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, turn, false)
    val argb = IntArray(upright.width * upright.height)
    upright.getPixels(argb, 0, upright.width, 0, 0, upright.width, upright.height)
    return toPixels(argb, upright.width, upright.height, shape)
}
