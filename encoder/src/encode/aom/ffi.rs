//! libaom's C interface (`aom/aom_encoder.h`, `aom/aomcx.h`), as far as it is used here.
//!
//! The library is loaded when AV1 is wanted, so that a machine without it can do all the rest. Its soname, version 3,
//! stands for the layout of these structures, and libaom compares [`ABI_VERSION`] itself when an encoder is made.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::OnceLock;

/// `AOM_ENCODER_ABI_VERSION`.
pub(super) const ABI_VERSION: c_int = 29;
/// `AOM_CODEC_ABI_MISMATCH`: [`ABI_VERSION`] is not that of the library.
pub(super) const WRONG_ABI: c_int = 3;
/// `AOM_USAGE_REALTIME`.
pub(super) const USAGE_REALTIME: c_uint = 1;
/// `AOM_CBR`.
pub(super) const CBR: c_int = 1;
/// `AOM_EFLAG_FORCE_KF`.
pub(super) const FORCE_KEYFRAME: c_long = 1;
/// `AOM_FRAME_IS_KEY`.
pub(super) const IS_KEYFRAME: u32 = 1;
/// `AOM_CODEC_CX_FRAME_PKT`.
pub(super) const FRAME_PACKET: c_int = 0;
/// `AOM_IMG_FMT_I420`.
pub(super) const I420: c_int = 0x102;

/// `aom_codec_enc_cfg_t`.
#[repr(C)]
#[derive(Clone)]
pub(super) struct Config {
    pub(super) usage: c_uint,
    pub(super) threads: c_uint,
    pub(super) profile: c_uint,
    pub(super) width: c_uint,
    pub(super) height: c_uint,
    pub(super) limit: c_uint,
    pub(super) forced_max_size: [c_uint; 2],
    pub(super) bit_depth: c_int,
    pub(super) input_bit_depth: c_uint,
    pub(super) timebase: [c_int; 2],
    pub(super) error_resilient: u32,
    pub(super) pass: c_int,
    pub(super) lag_in_frames: c_uint,
    pub(super) dropframe_thresh: c_uint,
    pub(super) resize: [c_uint; 3],
    pub(super) superres: [c_uint; 5],
    pub(super) end_usage: c_int,
    pub(super) stats: [FixedBuffer; 2],
    pub(super) target_bitrate: c_uint,
    pub(super) min_quantizer: c_uint,
    pub(super) max_quantizer: c_uint,
    pub(super) undershoot_pct: c_uint,
    pub(super) overshoot_pct: c_uint,
    pub(super) buf_sz: c_uint,
    pub(super) buf_initial_sz: c_uint,
    pub(super) buf_optimal_sz: c_uint,
    pub(super) two_pass: [c_uint; 3],
    pub(super) fwd_kf_enabled: c_int,
    pub(super) kf_mode: c_int,
    pub(super) kf_min_dist: c_uint,
    pub(super) kf_max_dist: c_uint,
    pub(super) sframe: [c_uint; 2],
    pub(super) large_scale_tile: c_uint,
    pub(super) monochrome: c_uint,
    pub(super) full_still_picture_hdr: c_uint,
    pub(super) save_as_annexb: c_uint,
    pub(super) tile_counts: [c_int; 2],
    pub(super) tile_sizes: [[c_int; 64]; 2],
    pub(super) fixed_qp: [c_int; 6],
    pub(super) encoder_cfg: [c_uint; 35],
    /// Beyond the end: what a later libaom might add and fill in, before it compares versions.
    reserve: [c_uint; 64],
}

/// `aom_fixed_buf_t`.
#[repr(C)]
#[derive(Clone)]
pub(super) struct FixedBuffer {
    buf: *mut c_void,
    sz: usize,
}

/// `aom_codec_ctx_t`.
#[repr(C)]
pub(super) struct Context {
    name: *const c_char,
    interface: *const c_void,
    err: c_int,
    err_detail: *const c_char,
    init_flags: c_long,
    config: *const c_void,
    private: *mut c_void,
}

/// `aom_image_t`.
#[repr(C)]
pub(super) struct Image {
    pub(super) format: c_int,
    pub(super) colour: [c_int; 3],
    pub(super) monochrome: c_int,
    pub(super) chroma_position: c_int,
    pub(super) range: c_int,
    pub(super) stored: [c_uint; 2],
    pub(super) bit_depth: c_uint,
    pub(super) displayed: [c_uint; 2],
    pub(super) rendered: [c_uint; 2],
    pub(super) chroma_shift: [c_uint; 2],
    pub(super) planes: [*const u8; 3],
    pub(super) strides: [c_int; 3],
    pub(super) size: usize,
    pub(super) bits_per_sample: c_int,
    pub(super) layers: [c_int; 2],
    pub(super) user: *mut c_void,
    pub(super) data: *mut u8,
    pub(super) owned: [c_int; 2],
    pub(super) metadata: *mut c_void,
    pub(super) frame_buffer: *mut c_void,
}

/// `aom_codec_cx_pkt_t`, of which only frames are read.
#[repr(C)]
pub(super) struct Packet {
    pub(super) kind: c_int,
    pub(super) data: *const u8,
    pub(super) len: usize,
    pub(super) pts: i64,
    pub(super) duration: c_ulong,
    pub(super) flags: u32,
}

// Sizes and offsets as a C compiler has them for the headers of libaom 3.6.0 on a machine of 64 bits.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(
        std::mem::offset_of!(Config, reserve) == 904
            && size_of::<Context>() == 56
            && size_of::<Image>() == 168
    );
    assert!(std::mem::offset_of!(Config, timebase) == 40);
    assert!(std::mem::offset_of!(Config, target_bitrate) == 136);
    assert!(std::mem::offset_of!(Config, kf_max_dist) == 192);
    assert!(std::mem::offset_of!(Config, tile_sizes) == 228);
    assert!(std::mem::offset_of!(Config, encoder_cfg) == 764);
    assert!(std::mem::offset_of!(Context, err_detail) == 24);
    assert!(std::mem::offset_of!(Image, planes) == 64 && std::mem::offset_of!(Image, strides) == 88);
    assert!(std::mem::offset_of!(Packet, data) == 8 && std::mem::offset_of!(Packet, flags) == 40);
};

/// `aome_enc_control_id` of `aomcx.h`: the switches that are set, with their numbers.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Control {
    CpuUsed = 13,
    MaxIntraBitratePct = 26,
    RowMt = 32,
    TileColumns = 33,
    EnableTplModel = 35,
    AqMode = 40,
    SuperblockSize = 56,
    EnableCdef = 58,
    EnableObmc = 61,
    DisableTrellisQuant = 62,
    EnableOrderHint = 79,
    EnableRefFrameMvs = 84,
    EnableGlobalMotion = 95,
    EnableWarpedMotion = 96,
    EnableFilterIntra = 98,
    EnableSmoothIntra = 99,
    EnableCflIntra = 101,
    EnablePalette = 104,
    EnableAngleDelta = 106,
    DeltaqMode = 107,
    IntraDefaultTxOnly = 121,
    CoeffCostUpdFreq = 126,
    ModeCostUpdFreq = 127,
    MvCostUpdFreq = 128,
}

/// The library's functions.
pub(super) struct Library {
    pub(super) interface: unsafe extern "C" fn() -> *const c_void,
    pub(super) defaults: unsafe extern "C" fn(*const c_void, *mut Config, c_uint) -> c_int,
    pub(super) init: unsafe extern "C" fn(*mut Context, *const c_void, *const Config, c_long, c_int) -> c_int,
    pub(super) configure: unsafe extern "C" fn(*mut Context, *const Config) -> c_int,
    pub(super) control: unsafe extern "C" fn(*mut Context, c_int, ...) -> c_int,
    pub(super) encode: unsafe extern "C" fn(*mut Context, *const Image, i64, c_ulong, c_long) -> c_int,
    pub(super) packet: unsafe extern "C" fn(*mut Context, *mut *const c_void) -> *const Packet,
    pub(super) destroy: unsafe extern "C" fn(*mut Context) -> c_int,
    describe: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    /// Loads it, once in the life of this program.
    pub(super) fn get() -> Result<&'static Library, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(|| Library::load(c"libaom.so.3")).as_ref().map_err(Clone::clone)
    }

    fn load(name: &CStr) -> Result<Library, String> {
        // SAFETY: the name is a C string; the library is never closed.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            // SAFETY: it is called behind a failure of this thread, and the text is copied at once.
            let reason = unsafe { libc::dlerror().as_ref().map(|text| CStr::from_ptr(text)) };
            let reason = reason.map_or("it is not there".into(), CStr::to_string_lossy);
            return Err(format!("{reason}; on Debian: apt install libaom3"));
        }
        // SAFETY: the functions have had these types since libaom 3.0 (those of its headers).
        unsafe {
            Ok(Library {
                interface: function(library, c"aom_codec_av1_cx")?,
                defaults: function(library, c"aom_codec_enc_config_default")?,
                init: function(library, c"aom_codec_enc_init_ver")?,
                configure: function(library, c"aom_codec_enc_config_set")?,
                control: function(library, c"aom_codec_control")?,
                encode: function(library, c"aom_codec_encode")?,
                packet: function(library, c"aom_codec_get_cx_data")?,
                destroy: function(library, c"aom_codec_destroy")?,
                describe: function(library, c"aom_codec_err_to_string")?,
            })
        }
    }

    /// `Err`: what went wrong, with libaom's details where it has some.
    pub(super) fn check(&self, status: c_int, context: Option<&Context>) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: libaom's texts are C strings that live as long as it or the context.
        unsafe {
            let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
            let details = context.map(|context| context.err_detail).filter(|details| !details.is_null());
            let words = text((self.describe)(status));
            Err(details.map_or(words.clone(), |details| format!("{words}: {}", text(details))))
        }
    }
}

/// A function of a library that is loaded.
///
/// # Safety
/// `F` is a pointer to a function of the type that it has.
unsafe fn function<F: Copy>(library: *mut c_void, name: &CStr) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the name is a C string, and the library is open.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() {
        return Err(format!("the library has no {}", name.to_string_lossy()));
    }
    // SAFETY: the caller's; both are a pointer.
    Ok(unsafe { std::mem::transmute_copy(&found) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_another_one_says_so() {
        let error = Library::load(c"libaom-of-nobody.so.3").err().expect("it is not there");
        assert!(error.contains("libaom-of-nobody") && error.contains("apt install libaom3"), "{error}");
        let error = Library::load(c"libc.so.6").err().expect("not libaom");
        assert!(error.contains("aom_codec_av1_cx"), "{error}");
    }
}
