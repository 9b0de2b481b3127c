// Learns new classes with LiteRT: com.google.ai.edge.litert:litert, litert-api, API 21.
package org.example.fewshot

import java.nio.ByteBuffer
import org.tensorflow.lite.Interpreter

/**
 * One interpreter, four signatures.
 *
 * An array resizes the input of a signature to its own shape; a ByteBuffer never does. A scalar
 * input takes a number: an array of one element has the shape `[1]`, which the signature refuses.
 *
 * @param model litert/model.tflite, memory-mapped or in a direct buffer of native order.
 */
class LitertFewShot(private val settings: Settings, model: ByteBuffer) : FewShot {
    private val interpreter = Interpreter(model)

    override fun features(images: List<ByteArray>): Array<FloatArray> {
        val (height, width, channels) = settings.image
        val image = Array(images.size) { i ->
            Array(height) { y ->
                Array(width) { x ->
                    ByteArray(channels) { c -> images[i][(y * width + x) * channels + c] }
                }
            }
        }
        val features = Array(images.size) { FloatArray(settings.featureSize) }
        run("features", mapOf("image" to image), mapOf("features" to features))
        return features
    }

    override fun learn(features: Array<FloatArray>, labels: IntArray, ways: Int): Head {
        val kernel = Array(settings.featureSize) { FloatArray(ways) }
        val bias = FloatArray(ways)
        run("initial_head", mapOf("ways" to ways), mapOf("kernel" to kernel, "bias" to bias))
        val adapted = Head(Array(settings.featureSize) { FloatArray(ways) }, FloatArray(ways))
        val inputs = mapOf(
            "features" to features,
            "labels" to labels,
            "kernel" to kernel,
            "bias" to bias,
            "learning_rate" to settings.innerLr,
            "steps" to settings.innerSteps,
        )
        run("adapt", inputs, mapOf("adapted_kernel" to adapted.kernel, "adapted_bias" to adapted.bias))
        return adapted
    }

    override fun predict(features: Array<FloatArray>, head: Head): Array<FloatArray> {
        val probabilities = Array(features.size) { FloatArray(head.bias.size) }
        val inputs = mapOf("features" to features, "kernel" to head.kernel, "bias" to head.bias)
        run("predict", inputs, mapOf("probabilities" to probabilities))
        return probabilities
    }

    override fun close() = interpreter.close()

    private fun run(function: String, inputs: Map<String, Any>, outputs: Map<String, Any>) =
        interpreter.runSignature(inputs, outputs, function)
}
