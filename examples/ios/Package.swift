// swift-tools-version: 5.9
// The calls of a bundle on iOS. The tests compile Sources/FewShot with the Swift compiler of Debian,
// against declarations of ONNX Runtime's and LiteRT's interfaces; Photos.swift, which needs UIKit,
// was read against Apple's documentation. None of it has run on an iPhone.
import PackageDescription

let package = Package(
    name: "FewShot",
    platforms: [.iOS("15.1")],  // the minimum of ONNX Runtime's framework
    products: [.library(name: "FewShot", targets: ["FewShot"])],
    dependencies: [
        .package(
            url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ],
    targets: [
        .target(
            name: "FewShot",
            dependencies: [
                .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
            ])
    ]
)
