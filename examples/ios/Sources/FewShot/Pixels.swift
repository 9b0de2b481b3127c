// From a picture to the bytes that a bundle takes: the bytes of the training pictures, exactly.
import Foundation

private let lobes = 3.0
private let unit = 1 << 22  // weights are integers: multiples of 1 / unit

/// Bytes `[height, width, channels]` of an upright picture.
///
/// The picture is laid on white where it is transparent, made grey or RGB, cut to the model's aspect
/// ratio around its centre, and resized by a Lanczos filter in the integer arithmetic of training.
///
/// - Parameters:
///   - rgba: Four bytes per pixel, row by row: red, green, blue, and alpha, not multiplied in.
///   - shape: `image_shape` of the manifest.
public func toPixels(rgba: [UInt8], width: Int, height: Int, shape: ImageShape) -> [UInt8] {
    precondition(rgba.count == 4 * width * height, "\(rgba.count) bytes are not \(width) x \(height)")
    let boxWidth = max(1, min(width, height * shape.width / shape.height))
    let boxHeight = max(1, min(height, width * shape.height / shape.width))
    let (left, top) = ((width - boxWidth) / 2, (height - boxHeight) / 2)
    var pixels = [UInt8](repeating: 0, count: shape.height * shape.width * shape.channels)
    for channel in 0..<shape.channels {
        let across = filterRows(boxWidth, boxHeight, shape.width) { x, y in
            let start = 4 * ((top + y) * width + left + x)
            return shape.channels == 1 ? grey(rgba, start) : onWhite(rgba, start, channel)
        }
        let down = filterRows(boxHeight, shape.width, shape.height) { x, y in
            across[y * boxHeight + x]
        }
        for (i, value) in down.enumerated() {
            pixels[i * shape.channels + channel] = UInt8(value)
        }
    }
    return pixels
}

private func onWhite(_ rgba: [UInt8], _ start: Int, _ channel: Int) -> Int {
    let (value, alpha) = (Int(rgba[start + channel]), Int(rgba[start + 3]))
    if alpha == 255 { return value }
    return Int((Double(value * alpha) / 255 + Double(255 - alpha) + 0.5).rounded(.down))
}

private func grey(_ rgba: [UInt8], _ start: Int) -> Int {
    let red = onWhite(rgba, start, 0)
    let green = onWhite(rgba, start, 1)
    let blue = onWhite(rgba, start, 2)
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
}

/// Each row to `size` pixels, and rows to columns: twice, and the picture is upright again.
private func filterRows(_ width: Int, _ height: Int, _ size: Int, _ pixel: (Int, Int) -> Int)
    -> [Int]
{
    var filtered = [Int](repeating: 0, count: size * height)
    for column in 0..<size {
        let (first, weights) = weigh(column, width, size)
        for row in 0..<height {
            var sum = unit / 2
            for (k, weight) in weights.enumerated() {
                sum += pixel(first + k, row) * weight
            }
            filtered[column * height + row] = min(255, max(0, sum >> 22))
        }
    }
    return filtered
}

/// The pixels that one pixel of the resized row is made of, and the weight of each.
private func weigh(_ index: Int, _ from: Int, _ to: Int) -> (first: Int, weights: [Int]) {
    let scale = max(Double(from) / Double(to), 1)
    let center = (Double(index) + 0.5) * (Double(from) / Double(to))
    let first = max(0, Int(center - lobes * scale + 0.5))
    let last = min(from, Int(center + lobes * scale + 0.5))
    let raw = (first..<last).map { lanczos((Double($0) - center + 0.5) * (1 / scale)) }
    let total = raw.reduce(0, +)
    let weights = raw.map { value -> Int in
        let weight = value / total * Double(unit)
        return Int(weight + (weight < 0 ? -0.5 : 0.5))
    }
    return (first, weights)
}

private func lanczos(_ x: Double) -> Double {
    x >= -lobes && x < lobes ? sinc(x) * sinc(x / lobes) : 0
}

private func sinc(_ x: Double) -> Double {
    x == 0 ? 1 : sin(x * Double.pi) / (x * Double.pi)
}
