//! AV1 by libaom. GStreamer 1.22's av1enc makes no keyframe when asked (docs/decisions/0019), so this is an encoder of
//! our own on the same library: [`Av1Encoder`], which [`element`] makes an element of.

use std::ffi::{c_int, c_uint};
use std::ptr;

use ffi::{Config, Context, Control, Image, Library};

pub(super) mod element;
mod ffi;

/// libaom takes no larger pictures here. AV1 has them up to 65536; this keeps sums of sizes far from overflowing.
const MAX_SIDE: u32 = 16_384;

/// See [`ffi`].
const OTHER_VERSION: &str =
    "this libaom is not of the versions that Roadie knows (3.6, of Debian 12); use --codec h264";

/// What is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pictures {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Frames a second. The encoder believes that they come evenly.
    pub(super) fps: u32,
}

/// What may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spending {
    /// Bits per second.
    pub(super) bitrate: u32,
    /// How much may come at once, in milliseconds of the bit rate.
    pub(super) buffer: u32,
}

/// A picture in three planes, I420: luma, then two of half the width and height.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes<'a> {
    pub(super) data: [&'a [u8]; 3],
    /// Bytes from one row to the next.
    pub(super) strides: [u32; 3],
}

/// A running encoder, set up for live: no look-ahead, constant bit rate, keyframes only when asked.
pub(super) struct Av1Encoder {
    library: &'static Library,
    // libaom keeps pointers to both.
    context: Box<Context>,
    config: Box<Config>,
    pictures: Pictures,
    number: i64,
}

// SAFETY: libaom's encoder has no ties to the thread that made it; all calls go through `&mut self`.
unsafe impl Send for Av1Encoder {}

/// The switches of a video call (libwebrtc's), without those that only matter for still pictures or screens.
const CONTROLS: [(Control, c_int); 23] = [
    // Percent of a picture's share that a keyframe may have.
    (Control::MaxIntraBitratePct, 300),
    (Control::RowMt, 1),
    // Two columns, for two threads; a logarithm.
    (Control::TileColumns, 1),
    (Control::EnableTplModel, 0),
    // Renews the picture piece by piece where there are bits to spare.
    (Control::AqMode, 3),
    // 64 x 64.
    (Control::SuperblockSize, 0),
    (Control::EnableCdef, 1),
    (Control::EnableObmc, 0),
    (Control::DisableTrellisQuant, 1),
    (Control::EnableOrderHint, 0),
    (Control::EnableRefFrameMvs, 0),
    (Control::EnableGlobalMotion, 0),
    (Control::EnableWarpedMotion, 0),
    (Control::EnableFilterIntra, 0),
    (Control::EnableSmoothIntra, 0),
    (Control::EnableCflIntra, 0),
    (Control::EnablePalette, 0),
    (Control::EnableAngleDelta, 0),
    (Control::DeltaqMode, 0),
    (Control::IntraDefaultTxOnly, 1),
    (Control::CoeffCostUpdFreq, 3),
    (Control::ModeCostUpdFreq, 3),
    (Control::MvCostUpdFreq, 3),
];

/// From 7 on libaom 3.6 decides without counting what bits buy. That is twice as fast, and at times leaves a block of
/// 32 pixels wrong for one picture (docs/decisions/0019), so small pictures, which cost little, go without.
fn speed(pictures: Pictures) -> c_int {
    let pixels = u64::from(pictures.width) * u64::from(pictures.height);
    if pixels <= 640 * 360 {
        6
    } else if pixels <= 1280 * 720 {
        8
    } else {
        10
    }
}

impl Av1Encoder {
    /// `Err`: why not, in words.
    pub(super) fn new(pictures: Pictures, spending: Spending) -> Result<Self, String> {
        let Pictures { width, height, fps } = pictures;
        if [width, height, fps].contains(&0) || width > MAX_SIDE || height > MAX_SIDE {
            return Err(format!("libaom cannot encode {width}x{height} at {fps} a second"));
        }
        let library = Library::get()?;
        // SAFETY: a configuration and a context of zeros are what libaom's own programs begin with.
        let (mut config, mut context): (Box<Config>, Box<Context>) =
            unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        // SAFETY: the structures have libaom's layout (see there), and live in boxes that do not move.
        unsafe {
            let interface = (library.interface)();
            library.check((library.defaults)(interface, &raw mut *config, ffi::USAGE_REALTIME), None)?;
            if (config.usage, config.bit_depth, config.kf_max_dist) != (ffi::USAGE_REALTIME, 8, 9999) {
                return Err(OTHER_VERSION.to_owned());
            }
            set_up(&mut config, pictures);
            spend(&mut config, spending);
            let status =
                (library.init)(&raw mut *context, interface, &raw const *config, 0, ffi::ABI_VERSION);
            if status == ffi::WRONG_ABI {
                return Err(OTHER_VERSION.to_owned());
            }
            library.check(status, Some(&context))?;
        }
        let mut encoder = Self { library, context, config, pictures, number: 0 };
        for (control, value) in [(Control::CpuUsed, speed(pictures))].into_iter().chain(CONTROLS) {
            // SAFETY: the context is initialised, and all of these take one int.
            let status =
                unsafe { (library.control)(&raw mut *encoder.context, control as c_int, value as c_uint) };
            let told = library.check(status, Some(&encoder.context));
            told.map_err(|error| format!("{control:?}: {error}"))?;
        }
        Ok(encoder)
    }

    /// From the next picture on. Makes no keyframe.
    pub(super) fn set_spending(&mut self, spending: Spending) -> Result<(), String> {
        spend(&mut self.config, spending);
        // SAFETY: the context is initialised; the configuration has libaom's layout.
        let status = unsafe { (self.library.configure)(&raw mut *self.context, &raw const *self.config) };
        self.library.check(status, Some(&self.context))
    }

    /// Encodes the next picture: a temporal unit, or `None` if it was left out to keep to the bit rate. A keyframe
    /// never is.
    pub(super) fn encode(&mut self, planes: Planes<'_>, keyframe: bool) -> Result<Option<Unit>, String> {
        let image = self.image(planes)?;
        let flags = if keyframe { ffi::FORCE_KEYFRAME } else { 0 };
        // SAFETY: the image's planes were checked and outlive the call, which does not keep them: nothing looks ahead.
        let status =
            unsafe { (self.library.encode)(&raw mut *self.context, &raw const image, self.number, 1, flags) };
        self.library.check(status, Some(&self.context))?;
        self.number += 1;
        let (mut unit, mut iterator) = (None::<Unit>, ptr::null());
        loop {
            // SAFETY: the iterator is libaom's; a packet is valid until the next call of `encode`.
            let packet = unsafe { (self.library.packet)(&raw mut *self.context, &raw mut iterator).as_ref() };
            let Some(packet) = packet else { return Ok(unit) };
            if packet.kind == ffi::FRAME_PACKET && !packet.data.is_null() {
                // SAFETY: libaom says so many bytes are there.
                let data = unsafe { std::slice::from_raw_parts(packet.data, packet.len) };
                let unit = unit.get_or_insert_default();
                unit.data.extend_from_slice(data);
                unit.keyframe |= packet.flags & ffi::IS_KEYFRAME != 0;
            }
        }
    }

    fn image(&self, planes: Planes<'_>) -> Result<Image, String> {
        let size @ [width, height] = [self.pictures.width, self.pictures.height];
        for (number, (data, stride)) in planes.data.iter().zip(planes.strides).enumerate() {
            let [width, height] = if number == 0 { size } else { [width.div_ceil(2), height.div_ceil(2)] };
            let needed = u64::from(stride) * u64::from(height - 1) + u64::from(width);
            if stride < width || stride > i32::MAX as u32 || (data.len() as u64) < needed {
                return Err(format!("plane {number} of a picture is too small"));
            }
        }
        Ok(Image {
            format: ffi::I420,
            // Unspecified, as H.264 and VP8 are here.
            colour: [2; 3],
            monochrome: 0,
            chroma_position: 0,
            range: 0,
            stored: size,
            bit_depth: 8,
            displayed: size,
            rendered: size,
            chroma_shift: [1; 2],
            planes: planes.data.map(<[u8]>::as_ptr),
            strides: planes.strides.map(|stride| stride as c_int),
            size: 0,
            bits_per_sample: 12,
            layers: [0; 2],
            user: ptr::null_mut(),
            data: ptr::null_mut(),
            owned: [0; 2],
            metadata: ptr::null_mut(),
            frame_buffer: ptr::null_mut(),
        })
    }
}

impl Drop for Av1Encoder {
    fn drop(&mut self) {
        // SAFETY: it was initialised, once.
        unsafe { (self.library.destroy)(&raw mut *self.context) };
    }
}

/// A picture as libaom encodes it: its OBUs, with a delimiter before them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) data: Vec<u8>,
    pub(super) keyframe: bool,
}

/// What does not change.
fn set_up(config: &mut Config, pictures: Pictures) {
    (config.width, config.height) = (pictures.width, pictures.height);
    config.threads = 2;
    config.timebase = [1, pictures.fps.min(i32::MAX as u32) as c_int];
    (config.pass, config.end_usage, config.lag_in_frames) = (0, ffi::CBR, 0);
    // Keyframes come when asked.
    config.kf_mode = 0;
    // Not libaom's own 0, which is without loss and aborts the process at a constant bit rate.
    (config.min_quantizer, config.max_quantizer) = (2, 60);
    (config.undershoot_pct, config.overshoot_pct) = (50, 50);
    // Where even the coarsest picture is too large, one is left out: here, not on the way.
    config.dropframe_thresh = 30;
}

fn spend(config: &mut Config, Spending { bitrate, buffer }: Spending) {
    config.target_bitrate = (bitrate / 1000).max(1);
    config.buf_sz = buffer.max(1);
    config.buf_optimal_sz = (buffer * 2 / 3).max(1);
    config.buf_initial_sz = (buffer / 2).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURES: Pictures = Pictures { width: 322, height: 182, fps: 30 };

    /// Pictures that move, with noise of a fixed seed, so that they cost bits.
    fn encode(encoder: &mut Av1Encoder, number: u32, keyframe: bool) -> Option<Unit> {
        let [width, height] = [PICTURES.width as usize, PICTURES.height as usize];
        let mut seed = number.wrapping_mul(0x9e37_79b9) | 1;
        let mut noise = || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            (seed % 24) as u8
        };
        let luma: Vec<u8> =
            (0..width * height).map(|at| ((at + 7 * number as usize) % 200) as u8 + noise()).collect();
        let chroma = vec![128; width.div_ceil(2) * height.div_ceil(2)];
        let half = PICTURES.width.div_ceil(2);
        let planes = Planes { data: [&luma, &chroma, &chroma], strides: [PICTURES.width, half, half] };
        encoder.encode(planes, keyframe).expect("it encodes")
    }

    /// Bytes of two seconds, of which the first keyframe and what follows it at once are not counted.
    fn second(encoder: &mut Av1Encoder, from: u32) -> (usize, usize) {
        let units: Vec<_> = (from..from + 90).filter_map(|number| encode(encoder, number, false)).collect();
        let counted = &units[units.len().min(30)..];
        (
            counted.iter().map(|unit| unit.data.len()).sum(),
            counted.iter().filter(|unit| unit.keyframe).count(),
        )
    }

    #[test]
    fn keyframes_come_when_asked_and_the_bit_rate_is_followed_without_one() {
        let spending = Spending { bitrate: 1_500_000, buffer: 150 };
        let mut encoder = Av1Encoder::new(PICTURES, spending).expect("libaom");
        for number in 0..40 {
            let asked = number % 8 == 3;
            let unit = encode(&mut encoder, number, asked);
            assert_eq!(unit.is_some_and(|unit| unit.keyframe), asked || number == 0, "{number}");
        }
        let (fast, keyframes) = second(&mut encoder, 40);
        encoder.set_spending(Spending { bitrate: 500_000, ..spending }).expect("it takes it");
        let (slow, more) = second(&mut encoder, 130);
        assert_eq!((keyframes, more), (0, 0));
        let share = |bytes: usize, bitrate: usize| bytes * 8 * 100 / (2 * bitrate);
        assert!((70..130).contains(&share(fast, 1_500_000)), "{fast}");
        assert!((70..130).contains(&share(slow, 500_000)), "{slow}");
    }

    #[test]
    fn what_cannot_be_encoded_is_told_and_not_read() {
        let spending = Spending { bitrate: 500_000, buffer: 150 };
        for wrong in [
            Pictures { width: 0, ..PICTURES },
            Pictures { fps: 0, ..PICTURES },
            Pictures { height: MAX_SIDE + 1, ..PICTURES },
        ] {
            assert!(Av1Encoder::new(wrong, spending).is_err(), "{wrong:?}");
        }
        let mut encoder = Av1Encoder::new(PICTURES, spending).expect("libaom");
        let short = [0; 64];
        let planes = Planes { data: [&short; 3], strides: [322, 161, 161] };
        let error = encoder.encode(planes, false).expect_err("too few bytes");
        assert!(error.contains("plane 0"), "{error}");
    }
}
