// Learns new classes with ONNX Runtime, iOS 15.1.
import Foundation
import OnnxRuntimeBindings

public final class OnnxFewShot: FewShot {
    private let settings: Settings
    private let env: ORTEnv
    private var sessions: [String: ORTSession] = [:]

    /// - Parameter bundle: Folder with manifest.json and the folder onnx.
    public init(bundle: URL) throws {
        settings = try Settings(bundle: bundle)
        env = try ORTEnv(loggingLevel: .warning)
        for name in ["backbone", "initial_head", "adapt", "predict"] {
            let file = bundle.appendingPathComponent("onnx/\(name).onnx").path
            sessions[name] = try ORTSession(env: env, modelPath: file, sessionOptions: nil)
        }
    }

    public func features(_ images: [[UInt8]]) throws -> [Float] {
        let (image, n) = (settings.image, images.count)
        let shape = [n, image.height, image.width, image.channels]
        let pixels = try tensor(Array(images.joined()), .uInt8, shape)
        return try run("backbone", ["image": pixels], ["features"])[0]
    }

    public func learn(_ features: [Float], _ labels: [Int32], ways: Int) throws -> Head {
        let number = try tensor([Int32(ways)], .int32, [])
        let initial = try run("initial_head", ["ways": number], ["kernel", "bias"])
        let size = settings.featureSize
        let adapted = try run(
            "adapt",
            [
                "features": tensor(features, .float, [labels.count, size]),
                "labels": tensor(labels, .int32, [labels.count]),
                "kernel": tensor(initial[0], .float, [size, ways]),
                "bias": tensor(initial[1], .float, [ways]),
                "learning_rate": tensor([settings.innerLr], .float, []),
                "steps": tensor([settings.innerSteps], .int32, []),
            ],
            ["adapted_kernel", "adapted_bias"])
        return Head(kernel: adapted[0], bias: adapted[1])
    }

    public func predict(_ features: [Float], _ head: Head) throws -> [Float] {
        let (size, ways) = (settings.featureSize, head.bias.count)
        return try run(
            "predict",
            [
                "features": tensor(features, .float, [features.count / size, size]),
                "kernel": tensor(head.kernel, .float, [size, ways]),
                "bias": tensor(head.bias, .float, [ways]),
            ],
            ["probabilities"])[0]
    }

    /// The shape `[]` makes a scalar.
    private func tensor<T>(_ values: [T], _ type: ORTTensorElementDataType, _ shape: [Int]) throws
        -> ORTValue
    {
        let data = NSMutableData(data: bytes(values))
        return try ORTValue(
            tensorData: data, elementType: type, shape: shape.map { NSNumber(value: $0) })
    }

    private func run(_ function: String, _ inputs: [String: ORTValue], _ outputs: [String]) throws
        -> [[Float]]
    {
        let results = try sessions[function]!.run(
            withInputs: inputs, outputNames: Set(outputs), runOptions: nil)
        return try outputs.map { floats(try results[$0]!.tensorData() as Data) }
    }
}
