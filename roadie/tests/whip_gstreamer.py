"""Publishes a test picture and a tone over WHIP (RFC 9725) with GStreamer's webrtcbin, until it is interrupted."""

import signal
import sys
import urllib.parse
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

PIPELINE = """
  webrtcbin name=rtc bundle-policy=max-bundle
  videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=30/1
    ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=60 bitrate=1000
    ! video/x-h264,profile=constrained-baseline ! rtph264pay config-interval=-1 aggregate-mode=zero-latency
    ! application/x-rtp,media=video,encoding-name=H264,payload=96 ! rtc.
  audiotestsrc is-live=true wave=ticks ! opusenc ! rtpopuspay
    ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! rtc.
"""


def send(method, url, body=None, kind="application/sdp"):
    headers = {"Content-Type": kind} if body else {}
    request = urllib.request.Request(url, data=body and body.encode(), headers=headers, method=method)
    with urllib.request.urlopen(request) as response:
        return response.headers, response.read().decode()


def main(url):
    Gst.init(None)
    loop = GLib.MainLoop()
    pipeline = Gst.parse_launch(PIPELINE)
    rtc = pipeline.get_by_name("rtc")
    session = []

    def gathered(*_):
        if rtc.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            return
        offer = rtc.get_property("local-description").sdp.as_text()
        headers, answer = send("POST", url, offer)
        session.append(urllib.parse.urljoin(url, headers["Location"]))
        _, message = GstSdp.SDPMessage.new()
        GstSdp.sdp_message_parse_buffer(answer.encode(), message)
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        description = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        rtc.emit("set-remote-description", description, Gst.Promise.new())

    def offered(promise, *_):
        offer = promise.get_reply().get_value("offer")
        rtc.emit("set-local-description", offer, Gst.Promise.new())

    def negotiate(*_):
        rtc.emit("create-offer", None, Gst.Promise.new_with_change_func(offered, None))

    def broken(_, message):
        print(message.parse_error(), file=sys.stderr)
        loop.quit()

    rtc.connect("on-negotiation-needed", negotiate)
    rtc.connect("notify::ice-gathering-state", lambda *_: GLib.idle_add(lambda: gathered() and False))
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::error", broken)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    for one in session:
        send("DELETE", one)
    pipeline.set_state(Gst.State.NULL)


main(sys.argv[1])
