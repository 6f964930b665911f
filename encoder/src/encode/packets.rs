//! Group and frame numbers of sound: a group is a fixed number of packets.

use media::Time;

use super::groups::first_group;

/// Milliseconds of an Opus packet. 20 halves the overhead of 10 and costs 10 ms.
pub(crate) const PACKET_MS: u32 = 20;
/// Packets in a group: half a second.
const GROUP_PACKETS: u32 = 500 / PACKET_MS;

/// Gives each packet its place.
#[derive(Debug)]
pub(crate) struct Packets {
    group: u64,
    packet: u32,
}

impl Packets {
    /// Of a show that starts at `start`.
    pub(crate) fn new(start: Time) -> Self {
        Packets { group: first_group(start), packet: 0 }
    }

    /// Group and frame number of the next packet.
    pub(crate) fn next(&mut self) -> (u64, u32) {
        let place = (self.group, self.packet);
        self.packet += 1;
        if self.packet == GROUP_PACKETS {
            (self.group, self.packet) = (self.group + 1, 0);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_fixed_number_of_packets() {
        let mut packets = Packets::new(Time::from_micros(1_795_000_000_900_000));
        for n in 0..100 {
            assert_eq!(packets.next(), (1_795_000_000 * 4 + n / 25, (n % 25) as u32));
        }
    }
}
