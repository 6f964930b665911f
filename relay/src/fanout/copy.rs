//! Tracks that came in over MoQ: each is read once, whatever the number of its viewers, and forwarded like our own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use moq_net::{group, origin, track};
use tokio::task::JoinSet;

use super::live::{GROUPS, Live, Lives, Writer};

/// With nobody there for so long, it is not read any more.
const LINGER: Duration = Duration::from_secs(5);

/// A group that comes so long after a newer one is of no use to those who watch live.
const MAX_AGE: Duration = Duration::from_secs(2);

impl Lives {
    /// The track of a broadcast that `origin` can get, as far as it is read already, or from now on. `name`: the
    /// broadcast's, in all of this relay; `path`: as `origin` calls it.
    pub(super) fn copy(&self, name: &str, path: &str, track: &str, origin: &origin::Consumer) -> Arc<Live> {
        let (live, writer) = self.copied(name, track);
        if let Some(writer) = writer {
            let (origin, path, track) = (origin.clone(), path.to_owned(), track.to_owned());
            tokio::spawn(async move {
                if let Err(error) = read(&writer, &origin, &path, &track).await {
                    tracing::debug!(path, track, %error, "not copied");
                    writer.refuse();
                }
            });
        }
        live
    }
}

/// Until it ends, or nobody is there.
async fn read(
    writer: &Arc<Writer>,
    origin: &origin::Consumer,
    path: &str,
    track: &str,
) -> Result<(), moq_net::Error> {
    let broadcast = origin.request_broadcast(path).await?;
    let wish = track::Subscription::default().with_max_age(MAX_AGE);
    let mut track = broadcast.track(track)?.subscribe(wish).await?;
    writer.set_priority(track.info().priority);
    let (mut groups, mut following) = (JoinSet::new(), VecDeque::new());
    let mut look = tokio::time::interval(LINGER);
    look.reset();
    let mut nobody = false;
    loop {
        tokio::select! {
            group = track.recv_group() => match group? {
                Some(group) => {
                    writer.begin(0, group.sequence);
                    following.push_back(groups.spawn(follow(writer.clone(), group)));
                    // What is older is not held any more.
                    if following.len() > GROUPS
                        && let Some(oldest) = following.pop_front()
                    {
                        oldest.abort();
                    }
                }
                None => break,
            },
            Some(_) = groups.join_next() => {}
            _ = look.tick() => {
                let before = std::mem::replace(&mut nobody, writer.viewers() == 0);
                if before && nobody {
                    return Ok(());
                }
            }
        }
    }
    while groups.join_next().await.is_some() {}
    Ok(())
}

async fn follow(writer: Arc<Writer>, mut group: group::Consumer) {
    // One that broke off ends for its viewers, too.
    while let Ok(Some(frame)) = group.read_frame().await {
        writer.write(0, group.sequence, frame.timestamp.value(), [&frame.payload, &[]]);
    }
    writer.end(0, group.sequence);
}
