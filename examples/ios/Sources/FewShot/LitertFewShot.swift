// Learns new classes with LiteRT, iOS 12: `pod 'TensorFlowLiteSwift', '~> 2.17.0'`. The pod has no Swift
// package, so this file is compiled only where a project has the pod.
#if canImport(TensorFlowLite)
import Foundation
import TensorFlowLite

public final class LitertFewShot: FewShot {
    private let settings: Settings
    private var runners: [String: SignatureRunner] = [:]

    /// - Parameter bundle: Folder with manifest.json and litert/model.tflite.
    public init(bundle: URL) throws {
        settings = try Settings(bundle: bundle)
        let file = bundle.appendingPathComponent("litert/model.tflite").path
        let interpreter = try Interpreter(modelPath: file)
        for name in ["features", "initial_head", "adapt", "predict"] {
            runners[name] = try interpreter.signatureRunner(with: name)
        }
    }

    public func features(_ images: [[UInt8]]) throws -> [Float] {
        let (image, n) = (settings.image, images.count)
        let shape = [n, image.height, image.width, image.channels]
        return try run(
            "features", ["image": (bytes(Array(images.joined())), shape)], ["features"])[0]
    }

    public func learn(_ features: [Float], _ labels: [Int32], ways: Int) throws -> Head {
        let number = bytes([Int32(ways)])
        let initial = try run("initial_head", ["ways": (number, [])], ["kernel", "bias"])
        let size = settings.featureSize
        let adapted = try run(
            "adapt",
            [
                "features": (bytes(features), [labels.count, size]),
                "labels": (bytes(labels), [labels.count]),
                "kernel": (bytes(initial[0]), [size, ways]),
                "bias": (bytes(initial[1]), [ways]),
                "learning_rate": (bytes([settings.innerLr]), []),
                "steps": (bytes([settings.innerSteps]), []),
            ],
            ["adapted_kernel", "adapted_bias"])
        return Head(kernel: adapted[0], bias: adapted[1])
    }

    public func predict(_ features: [Float], _ head: Head) throws -> [Float] {
        let (size, ways) = (settings.featureSize, head.bias.count)
        return try run(
            "predict",
            [
                "features": (bytes(features), [features.count / size, size]),
                "kernel": (bytes(head.kernel), [size, ways]),
                "bias": (bytes(head.bias), [ways]),
            ],
            ["probabilities"])[0]
    }

    /// Inputs as bytes and shape. A scalar, of shape `[]`, has its shape already.
    private func run(_ function: String, _ inputs: [String: (Data, [Int])], _ outputs: [String])
        throws -> [[Float]]
    {
        let runner = runners[function]!
        for (name, (_, shape)) in inputs where !shape.isEmpty {
            try runner.resizeInput(named: name, toShape: Tensor.Shape(shape))
        }
        try runner.invoke(with: inputs.mapValues { $0.0 })
        return try outputs.map { floats(try runner.output(named: $0).data) }
    }
}
#endif
