// What an app reads of a bundle's manifest.json, and what it keeps of a learned head.
package org.example.fewshot

import org.json.JSONObject

data class ImageShape(val height: Int, val width: Int, val channels: Int)

class Settings(
    val image: ImageShape,
    val featureSize: Int,
    val innerLr: Float,
    val innerSteps: Int,
) {
    companion object {
        fun read(manifest: String): Settings {
            val json = JSONObject(manifest)
            val shape = json.getJSONArray("image_shape")
            return Settings(
                ImageShape(shape.getInt(0), shape.getInt(1), shape.getInt(2)),
                json.getInt("feature_size"),
                json.getDouble("inner_lr").toFloat(),
                json.getInt("inner_steps"),
            )
        }
    }
}

/** Everything that was learned: kernel `[features, ways]` and bias `[ways]`. */
class Head(val kernel: Array<FloatArray>, val bias: FloatArray)

interface FewShot : AutoCloseable {
    /** Features `[n, D]` of n images, each the bytes of [toPixels]. */
    fun features(images: List<ByteArray>): Array<FloatArray>

    /** A head fitted to rows of features and their classes, 0 to ways - 1. */
    fun learn(features: Array<FloatArray>, labels: IntArray, ways: Int): Head

    /** The probability of each class, `[n, ways]`. */
    fun predict(features: Array<FloatArray>, head: Head): Array<FloatArray>
}
