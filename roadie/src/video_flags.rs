//! What the creator says of the picture: sizes, rates, renditions.

use anyhow::{Context, bail};
use encoder::VideoSettings;

/// `2500k`, `2.5M`, or bits per second.
pub fn parse_bitrate(text: &str) -> anyhow::Result<u32> {
    let (digits, unit) = match text.trim_end_matches(['k', 'K', 'm', 'M']) {
        digits if digits.len() == text.len() => (digits, 1.0),
        digits if text.ends_with(['k', 'K']) => (digits, 1e3),
        digits => (digits, 1e6),
    };
    match digits.parse::<f64>() {
        Ok(value) if (50_000.0..=100_000_000.0).contains(&(value * unit)) => Ok((value * unit) as u32),
        _ => bail!("{text:?} is no bit rate between 50k and 100M: write it as 2500k or 2.5M"),
    }
}

/// `1280x720`, or `720p` for 16:9.
pub fn parse_size(text: &str) -> anyhow::Result<(u32, u32)> {
    let wrong = || format!("{text:?} is no picture size: write it as 1280x720 or 720p");
    if let Some(height) = text.strip_suffix(['p', 'P']) {
        let height: u32 = height.parse().ok().filter(|height| *height <= 4096).with_context(wrong)?;
        return Ok((width_for(height, 16, 9), height));
    }
    let (width, height) = text.split_once(['x', 'X']).with_context(wrong)?;
    Ok((width.parse().ok().with_context(wrong)?, height.parse().ok().with_context(wrong)?))
}

/// `360p=600k`, in the shape of the main picture.
pub fn parse_rendition(text: &str, main: &VideoSettings) -> anyhow::Result<VideoSettings> {
    let wrong =
        || format!("--rendition {text:?} cannot be read: write it as HEIGHTp=RATE, such as 360p=600k");
    let (height, bitrate) = text.split_once('=').with_context(wrong)?;
    let height: u32 = height
        .strip_suffix(['p', 'P'])
        .and_then(|height| height.parse().ok())
        .filter(|height| (1..=4096).contains(height))
        .with_context(wrong)?;
    let width = width_for(height, main.width, main.height);
    Ok(VideoSettings { width, height, bitrate: parse_bitrate(bitrate).with_context(wrong)?, ..main.clone() })
}

/// The even width of a picture of this shape.
fn width_for(height: u32, across: u32, down: u32) -> u32 {
    let width = u64::from(height) * u64::from(across) / u64::from(down.max(1));
    u32::try_from(width.div_ceil(2) * 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitrates() {
        assert_eq!(parse_bitrate("2500k").unwrap(), 2_500_000);
        assert_eq!(parse_bitrate("2.5M").unwrap(), 2_500_000);
        assert_eq!(parse_bitrate("800000").unwrap(), 800_000);
        for bad in ["", "k", "-1M", "9k", "nanM", "1e12"] {
            assert!(parse_bitrate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1280x720").unwrap(), (1280, 720));
        assert_eq!(parse_size("1080p").unwrap(), (1920, 1080));
        assert_eq!(parse_size("480p").unwrap(), (854, 480));
        for bad in ["", "p", "720", "x", "1280x", "1280*720", "-1p", "99999999999p"] {
            let error = parse_size(bad).unwrap_err().to_string();
            assert!(error.contains("720p"), "{error}");
        }
    }

    #[test]
    fn renditions() {
        let main = VideoSettings::default();
        let small = parse_rendition("360p=600k", &main).unwrap();
        assert_eq!((small.width, small.height, small.bitrate), (640, 360, 600_000));
        for bad in ["", "360p", "360=600k", "360p=", "360p=7", "0p=600k", "p=600k"] {
            assert!(parse_rendition(bad, &main).is_err(), "{bad}");
        }
    }
}
