// Learns with the Android sample on a JVM: pixels and labels in, head and probabilities out.
package org.example.fewshot

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

fun main(given: Array<String>) {
    val shape = given.drop(given.size - 3).map { it.toInt() }.let { (h, w, c) -> ImageShape(h, w, c) }
    if (given[0] == "pixels") pixels(given, shape) else learn(given, shape)
}

/** `pixels ARGB OUTPUT width height, then the shape`. */
private fun pixels(given: Array<String>, shape: ImageShape) {
    val argb = ints(File(given[1]))
    File(given[2]).writeBytes(toPixels(argb, given[3].toInt(), given[4].toInt(), shape))
}

/** `learn BUNDLE IMAGES LABELS OUTPUT ways features rate steps, then the shape`. */
private fun learn(given: Array<String>, shape: ImageShape) {
    val settings = Settings(shape, given[6].toInt(), given[7].toFloat(), given[8].toInt())
    val bytes = File(given[2]).readBytes()
    val size = shape.height * shape.width * shape.channels
    val images = bytes.toList().chunked(size).map { it.toByteArray() }
    val model: FewShot = OnnxFewShot(settings) { File(given[1], it).readBytes() }
    model.use {
        val features = it.features(images)
        val head = it.learn(features, ints(File(given[3])), given[5].toInt())
        val rows = head.kernel.toList() + listOf(head.bias) + it.predict(features, head)
        val floats = rows.flatMap { row -> row.toList() }
        val memory = ByteBuffer.allocate(4 * floats.size).order(ByteOrder.LITTLE_ENDIAN)
        floats.forEach { value -> memory.putFloat(value) }
        File(given[4]).writeBytes(memory.array())
    }
}

private fun ints(file: File): IntArray {
    val memory = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer()
    return IntArray(memory.remaining()) { memory.get(it) }
}
