//! What can go wrong in capture and encoding, and what to do about it.

use std::path::PathBuf;

/// Why the encoder could not start, or why it ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// A number that cannot be encoded with.
    #[error("the settings ask for {what}")]
    InvalidSettings {
        /// What was asked for and what would do.
        what: String,
    },
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {message}; install it with `apt install libgstreamer1.0-0`")]
    NoGStreamer {
        /// Its words.
        message: String,
    },
    /// An element of GStreamer is not installed.
    #[error("the GStreamer element `{element}` is missing; install it with `apt install {package}`")]
    MissingElement {
        /// Name of the element.
        element: String,
        /// Debian package that has it.
        package: &'static str,
    },
    /// No encoder has this name.
    #[error("there is no video encoder {name:?}; choose one of: {known}")]
    UnknownEncoder {
        /// As given.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A show cannot be encoded that way.
    #[error("the video codec {codec:?} is not offered, because there is no encoder for it: use {known}")]
    UnknownCodec {
        /// As given.
        codec: String,
        /// Those that there are.
        known: String,
    },
    /// The encoder makes something else.
    #[error("the video encoder {encoder} makes {makes}, not {codec}; for {codec} choose one of: {known}")]
    EncoderOfOtherCodec {
        /// As a person writes it.
        encoder: String,
        /// What it makes.
        makes: &'static str,
        /// What was asked for.
        codec: &'static str,
        /// The encoders for that.
        known: String,
    },
    /// The encoder is installed, but does not work here.
    #[error(
        "the video encoder {name} does not work on this machine: {message}; `roadie devices` lists those that do"
    )]
    EncoderUnusable {
        /// As a person writes it.
        name: String,
        /// What was tried, or GStreamer's words.
        message: String,
    },
    /// The input is compressed in a way that no installed plug-in decodes.
    #[error(
        "no decoder for {what} is installed; try `apt install gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad`, or convert the input to H.264 and AAC in MP4"
    )]
    MissingDecoder {
        /// GStreamer's description of the format.
        what: String,
    },
    /// The file is not there.
    #[error("there is no file {}; check the path", path.display())]
    FileNotFound {
        /// As given.
        path: PathBuf,
    },
    /// The file is there but cannot be opened.
    #[error("cannot read {}: {reason}; check its permissions", path.display())]
    FileUnreadable {
        /// As given.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is no media file, or a damaged one.
    #[error("{} is not a media file that can be played: {message}", path.display())]
    NotMedia {
        /// As given.
        path: PathBuf,
        /// GStreamer's words.
        message: String,
    },
    /// The file has no picture.
    #[error("{} has no video; give a file with video (sound is optional)", path.display())]
    NoVideo {
        /// As given.
        path: PathBuf,
    },
    /// No such camera.
    #[error("there is no camera {device}; {found}")]
    CameraNotFound {
        /// As given.
        device: String,
        /// Which cameras there are.
        found: String,
    },
    /// The camera is there but does not deliver.
    #[error(
        "the camera {device} does not work: {message}; check that no other program uses it and that you are in the group `video`"
    )]
    CameraFailed {
        /// The device.
        device: String,
        /// GStreamer's words.
        message: String,
    },
    /// The camera has no mode of this size.
    #[error(
        "the camera {device} gives no pictures of {wanted}: the nearest are {nearest}; use `--size {nearest}`"
    )]
    CameraTooSmall {
        /// The device.
        device: String,
        /// The size that the show is to have.
        wanted: String,
        /// The best that the camera does.
        nearest: String,
    },
    /// The microphone does not deliver.
    #[error(
        "the microphone {device} does not work: {message}; `roadie devices` lists those that are there, and `--audio-input none` does without"
    )]
    MicrophoneFailed {
        /// As it is written.
        device: String,
        /// What GStreamer said.
        message: String,
    },
    /// The screen cannot be captured.
    #[error(
        "the screen {display} cannot be captured: {message}; run this in an X11 session, or name its display, such as `screen:0`"
    )]
    ScreenFailed {
        /// The display.
        display: String,
        /// Why.
        message: String,
    },
    /// The screens of a Wayland session.
    #[error(
        "this is a Wayland session, whose screens cannot be captured: log in with an X11 (Xorg) session, or let OBS capture the screen and send it here: `--input srt://:9000`, and in OBS the server srt://127.0.0.1:9000; `screen:0` takes that X11 display all the same"
    )]
    WaylandScreen,
    /// A stream from the network does not come, or breaks.
    #[error("the stream {input} failed: {message}; check the address and that the sender is on")]
    StreamFailed {
        /// The input as a person writes it.
        input: String,
        /// GStreamer's words.
        message: String,
    },
    /// Something comes from the network, but no picture.
    #[error(
        "the stream {input} carries no picture that can be decoded: nothing within {seconds} s; check the sender's video and that it sends a keyframe every second or two"
    )]
    NoVideoInStream {
        /// The input as a person writes it.
        input: String,
        /// How long a picture was waited for.
        seconds: u64,
    },
    /// A source that gave something does not any more.
    #[error("{input} has stopped; it is on air again when it comes back")]
    Stopped {
        /// The source as a person writes it.
        input: String,
    },
    /// The clock of a stream jumped, as it does when its sender is started again.
    #[error("{input} was started again by its sender")]
    ClockJumped {
        /// The input as a person writes it.
        input: String,
    },
    /// There is no input of this number.
    #[error("there is no input {input}: this show has {inputs}, counted from 0")]
    NoSuchInput {
        /// As asked for.
        input: usize,
        /// How many there are.
        inputs: usize,
    },
    /// Everything started, but nothing came out in time.
    #[error("the input {input} gave no {what} within {seconds} s; check that it works in another program")]
    NoFrames {
        /// The input as a person writes it.
        input: String,
        /// What is missing.
        what: &'static str,
        /// How long the encoder waited.
        seconds: u64,
    },
    /// GStreamer reported an error while running.
    #[error("GStreamer's {element} failed: {message}; start again, and with GST_DEBUG=3 set for its log")]
    Pipeline {
        /// The element that failed.
        element: String,
        /// GStreamer's words.
        message: String,
    },
}
