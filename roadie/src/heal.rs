//! After the last frame: the edge's copy of the show gets what live lost.

use relay::backfill::supply::Standing;

use crate::show::Ending;
use crate::terminal;

/// Goes on as long as it moves and nobody stops it; tells how it went.
pub async fn heal(ending: &Ending, mut note: impl FnMut(&str)) {
    let owed = |standing: &Standing| standing.on && !standing.done;
    let Some(standing) = ending.venue().backfill.filter(owed) else { return };
    note(&format!(
        "The edge's copy lacks {} groups, which are being sent. Stop it with Ctrl-C; `roadie recordings sync` goes on.",
        standing.owed
    ));
    let standing = tokio::select! {
        standing = ending.heal() => standing,
        () = terminal::stop_signal() => ending.venue().backfill,
    };
    note(&match standing {
        Some(Standing { whole: true, kept, .. }) => format!("The edge's copy is whole: {kept} groups."),
        Some(Standing { done: true, gone, .. }) => {
            format!(
                "The edge's copy lacks {gone} groups that no copy here has: see `roadie recordings verify`."
            )
        }
        _ => "The edge's copy is not whole: `roadie recordings sync` sends the rest.".into(),
    });
}
