// From a picture to the bytes that a bundle takes: the bytes of the training pictures, exactly.
package org.example.fewshot

import kotlin.math.PI
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sin

private const val LOBES = 3
private const val UNIT = 1 shl 22 // weights are integers: multiples of 1 / UNIT

/**
 * Bytes `[height, width, channels]` of an upright picture.
 *
 * The picture is laid on white where it is transparent, made grey or RGB, cut to the model's aspect
 * ratio around its centre, and resized by a Lanczos filter in the integer arithmetic of training.
 *
 * @param argb Its pixels row by row, as `Bitmap.getPixels` gives them.
 * @param shape `image_shape` of the manifest.
 */
fun toPixels(argb: IntArray, width: Int, height: Int, shape: ImageShape): ByteArray {
    require(argb.size == width * height) { "${argb.size} pixels are not $width x $height" }
    val boxWidth = max(1, min(width, (height.toLong() * shape.width / shape.height).toInt()))
    val boxHeight = max(1, min(height, (width.toLong() * shape.height / shape.width).toInt()))
    val left = (width - boxWidth) / 2
    val top = (height - boxHeight) / 2
    val pixels = ByteArray(shape.height * shape.width * shape.channels)
    for (channel in 0 until shape.channels) {
        val across = filterRows(boxWidth, boxHeight, shape.width) { x, y ->
            val color = argb[(top + y) * width + left + x]
            if (shape.channels == 1) grey(color) else onWhite(color, 16 - 8 * channel)
        }
        val down = filterRows(boxHeight, shape.width, shape.height) { x, y ->
            across[y * boxHeight + x]
        }
        down.forEachIndexed { i, value -> pixels[i * shape.channels + channel] = value.toByte() }
    }
    return pixels
}

/** Red, green or blue of a color, which lies [shift] bits from its end. */
private fun onWhite(color: Int, shift: Int): Int {
    val value = (color shr shift) and 0xff
    val alpha = color ushr 24
    return if (alpha == 255) value else floor(value * alpha / 255.0 + 255 - alpha + 0.5).toInt()
}

private fun grey(color: Int) =
    (onWhite(color, 16) * 19595 + onWhite(color, 8) * 38470 + onWhite(color, 0) * 7471 + 32768) shr 16

/** Each row to [size] pixels, and rows to columns: twice, and the picture is upright again. */
private inline fun filterRows(
    width: Int,
    height: Int,
    size: Int,
    pixel: (Int, Int) -> Int,
): IntArray {
    val filtered = IntArray(size * height)
    for (column in 0 until size) {
        val (first, weights) = weigh(column, width, size)
        for (row in 0 until height) {
            var sum = UNIT / 2
            for (k in weights.indices) sum += pixel(first + k, row) * weights[k]
            filtered[column * height + row] = (sum shr 22).coerceIn(0, 255)
        }
    }
    return filtered
}

/** The pixels that one pixel of the resized row is made of, and the weight of each. */
private fun weigh(index: Int, from: Int, to: Int): Pair<Int, IntArray> {
    val scale = max(from.toDouble() / to, 1.0)
    val center = (index + 0.5) * (from.toDouble() / to)
    val first = max(0, (center - LOBES * scale + 0.5).toInt())
    val last = min(from, (center + LOBES * scale + 0.5).toInt())
    val raw = DoubleArray(last - first) { k -> lanczos((k + first - center + 0.5) * (1 / scale)) }
    val total = raw.sum()
    return first to IntArray(raw.size) { k ->
        val weight = raw[k] / total * UNIT
        (weight + if (weight < 0) -0.5 else 0.5).toInt()
    }
}

private fun lanczos(x: Double) = if (x >= -LOBES && x < LOBES) sinc(x) * sinc(x / LOBES) else 0.0

private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)
