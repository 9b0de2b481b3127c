// What the sample uses of LiteRT's module of this name, declared to compile it.
import Foundation

public struct Tensor {
    public struct Shape {
        public init(_ dimensions: [Int]) {}
    }
    public let data: Data
}

public final class SignatureRunner {
    public func resizeInput(named name: String, toShape shape: Tensor.Shape) throws {}
    public func invoke(with inputs: [String: Data]) throws {}
    public func output(named name: String) throws -> Tensor { Tensor(data: Data()) }
}

public final class Interpreter {
    public init(modelPath: String) throws {}
    public func signatureRunner(with key: String) throws -> SignatureRunner { SignatureRunner() }
}
