// Learns new classes with ONNX Runtime: com.microsoft.onnxruntime:onnxruntime-android, API 24.
package org.example.fewshot

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.ByteBuffer

/** @param read Bytes of a file of the bundle: `{ assets.open("bundle/$it").readBytes() }`. */
class OnnxFewShot(private val settings: Settings, read: (String) -> ByteArray) : FewShot {
    private val env = OrtEnvironment.getEnvironment()
    private val sessions = listOf("backbone", "initial_head", "adapt", "predict")
        .associateWith { env.createSession(read("onnx/$it.onnx")) }

    override fun features(images: List<ByteArray>): Array<FloatArray> {
        val bytes = ByteBuffer.allocateDirect(images.sumOf { it.size })
        images.forEach { bytes.put(it) }
        bytes.rewind()
        val (height, width, channels) = settings.image
        val shape = longArrayOf(images.size, height, width, channels)
        val image = OnnxTensor.createTensor(env, bytes, shape, OnnxJavaType.UINT8)
        return run("backbone", mapOf("image" to image)) { it.matrix("features") }
    }

    override fun learn(features: Array<FloatArray>, labels: IntArray, ways: Int): Head {
        val initial = run("initial_head", mapOf("ways" to tensor(ways))) {
            Head(it.matrix("kernel"), it.vector("bias"))
        }
        val inputs = mapOf(
            "features" to tensor(features),
            "labels" to tensor(labels),
            "kernel" to tensor(initial.kernel),
            "bias" to tensor(initial.bias),
            "learning_rate" to tensor(settings.innerLr),
            "steps" to tensor(settings.innerSteps),
        )
        return run("adapt", inputs) {
            Head(it.matrix("adapted_kernel"), it.vector("adapted_bias"))
        }
    }

    override fun predict(features: Array<FloatArray>, head: Head): Array<FloatArray> {
        val inputs = mapOf(
            "features" to tensor(features),
            "kernel" to tensor(head.kernel),
            "bias" to tensor(head.bias),
        )
        return run("predict", inputs) { it.matrix("probabilities") }
    }

    override fun close() = sessions.values.forEach { it.close() }

    /** A tensor of an array's shape; of a number, a scalar. */
    private fun tensor(value: Any) = OnnxTensor.createTensor(env, value)

    private fun <T> run(
        function: String,
        inputs: Map<String, OnnxTensor>,
        use: (OrtSession.Result) -> T,
    ): T =
        try {
            sessions.getValue(function).run(inputs).use(use)
        } finally {
            inputs.values.forEach { it.close() }
        }

    @Suppress("UNCHECKED_CAST")
    private fun OrtSession.Result.matrix(name: String) = get(name).get().value as Array<FloatArray>

    private fun OrtSession.Result.vector(name: String) = get(name).get().value as FloatArray

    private fun longArrayOf(vararg sizes: Int) = LongArray(sizes.size) { sizes[it].toLong() }
}
