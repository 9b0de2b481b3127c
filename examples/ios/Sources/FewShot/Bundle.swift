// What an app reads of a bundle's manifest.json, and what it keeps of a learned head.
import Foundation

public struct ImageShape {
    public let height: Int, width: Int, channels: Int

    public init(height: Int, width: Int, channels: Int) {
        self.height = height
        self.width = width
        self.channels = channels
    }
}

public struct Settings {
    public let image: ImageShape
    public let featureSize: Int
    public let innerLr: Float
    public let innerSteps: Int32

    public init(image: ImageShape, featureSize: Int, innerLr: Float, innerSteps: Int32) {
        self.image = image
        self.featureSize = featureSize
        self.innerLr = innerLr
        self.innerSteps = innerSteps
    }

    /// Those of the folder of a bundle.
    public init(bundle: URL) throws {
        struct Manifest: Decodable {
            let image_shape: [Int]
            let feature_size: Int
            let inner_lr: Float
            let inner_steps: Int32
        }
        let json = try Data(contentsOf: bundle.appendingPathComponent("manifest.json"))
        let found = try JSONDecoder().decode(Manifest.self, from: json)
        let shape = found.image_shape
        self.init(
            image: ImageShape(height: shape[0], width: shape[1], channels: shape[2]),
            featureSize: found.feature_size, innerLr: found.inner_lr, innerSteps: found.inner_steps)
    }
}

/// Everything that was learned: the kernel `[features, ways]`, row by row, and the bias `[ways]`.
public struct Head {
    public let kernel: [Float]
    public let bias: [Float]
}

public protocol FewShot {
    /// Features `[n, D]`, row by row, of n images, each the bytes of `toPixels`.
    func features(_ images: [[UInt8]]) throws -> [Float]

    /// A head fitted to rows of features and their classes, 0 to ways - 1.
    func learn(_ features: [Float], _ labels: [Int32], ways: Int) throws -> Head

    /// The probability of each class, `[n, ways]`, row by row.
    func predict(_ features: [Float], _ head: Head) throws -> [Float]
}

func bytes<T>(_ values: [T]) -> Data {
    values.withUnsafeBytes { Data($0) }
}

func floats(_ data: Data) -> [Float] {
    var values = [Float](repeating: 0, count: data.count / MemoryLayout<Float>.size)
    _ = values.withUnsafeMutableBytes { data.copyBytes(to: $0) }
    return values
}
