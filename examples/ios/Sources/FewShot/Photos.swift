// From a UIImage or a camera frame to the bytes that a bundle takes. Needs UIKit, so the tests leave
// it out.
#if canImport(UIKit)
import UIKit

/// Bytes `[height, width, channels]` of a photo of the library or a picked file.
public func toPixels(_ photo: UIImage, shape: ImageShape) -> [UInt8]? {
    // A UIImage's cgImage lies as the sensor saw it; drawing the UIImage turns it upright.
    let format = UIGraphicsImageRendererFormat()
    format.scale = 1
    format.preferredRange = .standard  // sRGB bytes
    let size = CGSize(width: photo.size.width * photo.scale, height: photo.size.height * photo.scale)
    let upright = UIGraphicsImageRenderer(size: size, format: format).image { context in
        UIColor.white.setFill()
        context.fill(CGRect(origin: .zero, size: size))
        photo.draw(in: CGRect(origin: .zero, size: size))
    }
    return upright.cgImage.flatMap { toPixels($0, shape: shape) }
}

/// Bytes of a camera frame. Set `connection.videoRotationAngle` (iOS 17) or `videoOrientation` of
/// the capture output, so that its frames are upright, or say here how they lie.
public func toPixels(
    _ frame: CVPixelBuffer, lying orientation: CGImagePropertyOrientation = .up, shape: ImageShape
) -> [UInt8]? {
    let upright = CIImage(cvPixelBuffer: frame).oriented(orientation)
    guard let image = CIContext().createCGImage(upright, from: upright.extent) else { return nil }
    return toPixels(image, shape: shape)
}

/// Bytes of an upright picture.
private func toPixels(_ image: CGImage, shape: ImageShape) -> [UInt8]? {
    let (width, height) = (image.width, image.height)
    var rgba = [UInt8](repeating: 255, count: 4 * width * height)
    let drawn = rgba.withUnsafeMutableBytes { memory -> Bool in
        guard
            let context = CGContext(
                data: memory.baseAddress, width: width, height: height, bitsPerComponent: 8,
                bytesPerRow: 4 * width, space: CGColorSpace(name: CGColorSpace.sRGB)!,
                bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
        else { return false }
        context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        return true
    }
    guard drawn else { return nil }
    for i in stride(from: 3, to: rgba.count, by: 4) { rgba[i] = 255 }  // the byte that is skipped
    return toPixels(rgba: rgba, width: width, height: height, shape: shape)
}
#endif
