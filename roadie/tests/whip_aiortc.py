"""Publishes a green picture and silence over WHIP (RFC 9725) with aiortc, until it is interrupted."""

import asyncio
import signal
import sys
import urllib.parse
import urllib.request

from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import AudioStreamTrack


def send(method, url, body=None):
    headers = {"Content-Type": "application/sdp"} if body else {}
    request = urllib.request.Request(url, data=body and body.encode(), headers=headers, method=method)
    with urllib.request.urlopen(request) as response:
        return response.headers, response.read().decode()


async def main(url):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    peer = RTCPeerConnection()
    pictures = peer.addTransceiver(VideoStreamTrack(), direction="sendonly")
    peer.addTransceiver(AudioStreamTrack(), direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    pictures.setCodecPreferences([codec for codec in known if codec.mimeType == "video/H264"])
    await peer.setLocalDescription(await peer.createOffer())
    headers, answer = await asyncio.to_thread(send, "POST", url, peer.localDescription.sdp)
    await peer.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
    await stop.wait()
    await asyncio.to_thread(send, "DELETE", urllib.parse.urljoin(url, headers["Location"]))
    await peer.close()


asyncio.run(main(sys.argv[1]))
