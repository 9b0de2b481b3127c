package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.util.Map;

/** What the sample uses of LiteRT's class of this name, declared to compile it. */
public final class Interpreter implements AutoCloseable {
    public Interpreter(ByteBuffer model) {}

    public void runSignature(
            Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {}

    @Override
    public void close() {}
}
