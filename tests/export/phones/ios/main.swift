// Makes pixels with the sample: `drive RGBA OUTPUT width height`, then the shape.
import Foundation

let given = CommandLine.arguments
let sizes = given[3...].map { Int($0)! }
let rgba = [UInt8](try Data(contentsOf: URL(fileURLWithPath: given[1])))
let shape = ImageShape(height: sizes[2], width: sizes[3], channels: sizes[4])
let pixels = toPixels(rgba: rgba, width: sizes[0], height: sizes[1], shape: shape)
try Data(pixels).write(to: URL(fileURLWithPath: given[2]))
