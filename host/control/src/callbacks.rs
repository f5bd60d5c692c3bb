//! Tells those who asked for it of sessions' lives (`spec/session.md` §3.10): the loop that empties the outbox.
//!
//! What is to be told is written with the change that it tells of (`store/src/callbacks.rs`), so it is told at least once,
//! whatever happens to hosts. A session's calls are made in order: the next when the one before it ended, well or not.
//! What is under way is known to the leader alone; what became of it is a row.

use std::collections::HashMap;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use quarterdeck_model::{AccessKey, Timestamp};
use quarterdeck_outgoing::{Client, Request, Response, Url};
use quarterdeck_store::callbacks::{self, Due, Outcome, Tried};
use serde_json::json;
use sha2::Sha256;
use tokio::task::{self, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::{Control, outgoing};

/// Addresses are no longer than this, in bytes.
const LONGEST_URL: usize = 2048;
/// How often the outbox is looked at when nothing is under way.
const TICK: Duration = Duration::from_millis(500);
/// How long one try may take, from the resolution of the name to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers mean nothing beyond their status; longer ones than this, in bytes, aren't read.
const ANSWER: usize = 1 << 20;
/// Tries of one call.
const TRIES: i64 = 6;
/// The pause after the first try, in milliseconds; each next one is four times as long: 11 minutes together.
const FIRST_PAUSE_MS: i64 = 2_000;
/// A receiver that asks for a longer pause (`Retry-After`) gets this one at most, in milliseconds.
const LONGEST_PAUSE_MS: i64 = 600_000;
/// Calls under way at once: all, for the sessions of one key pair, to one receiver.
const ALL: usize = 256;
const OF_OWNER: usize = 16;
const OF_RECEIVER: usize = 4;
/// What couldn't be told for so long, in milliseconds, is old news.
const NEWS_MS: i64 = 24 * 3_600_000;
/// How long rows are kept after their end, in milliseconds.
const KEPT_MS: i64 = 24 * 3_600_000;
/// When the loop ends, those who are being told have so long to say that they heard it.
const FAREWELL: Duration = Duration::from_secs(1);

const SIGNATURE: &str = "x-quarterdeck-signature";
const DELIVERY: &str = "x-quarterdeck-delivery";

/// Whether sessions can be told of at an address.
///
/// # Errors
/// [`Error::InvalidParams`] that names the field `callback_url` and says why not.
pub(crate) fn check(url: Option<&str>) -> Result<()> {
    let Some(url) = url else { return Ok(()) };
    fault(url).map_or(Ok(()), |why| {
        Err(Error::InvalidParams { msg: format!("callback_url: {why}"), data: Some(json!({ "callback_url": why })) })
    })
}

fn fault(url: &str) -> Option<String> {
    if url.len() > LONGEST_URL {
        return Some(format!("the address is longer than {LONGEST_URL} bytes"));
    }
    let Ok(parsed) = Url::parse(url) else { return Some("that is no URL".to_owned()) };
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Some("only http:// and https:// addresses can be called".to_owned());
    }
    // They would stand in logs of proxies, and aren't sent.
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Some("credentials don't belong into an address: calls are signed".to_owned());
    }
    None
}

/// Makes calls until stopped.
pub(crate) async fn run(control: Control, stop: CancellationToken) {
    let mut sender = Sender { control, tries: JoinSet::new(), busy: HashMap::new(), over: Vec::new() };
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut measured = false;
        tokio::select! {
            () = stop.cancelled() => break,
            _ = timer.tick() => measured = true,
            Some(ended) = sender.tries.join_next_with_id() => sender.take(ended),
        }
        sender.collect();
        match sender.pass(measured).await {
            Ok(()) => sender.control.metrics().passed("callbacks", sender.control.clock().now()),
            Err(error) => tracing::error!(%error, "call-backs can't be made"),
        }
    }
    sender.end().await;
}

/// Drops old rows, and gives up what has waited too long.
///
/// # Errors
/// [`Error::Store`].
pub(crate) async fn expire(control: &Control) -> Result<u64> {
    let now = control.clock().now();
    let mut tx = control.store().begin().await?;
    let late = callbacks::give_up(&mut tx, now.plus_millis(-NEWS_MS), "its turn didn't come in time", now).await?;
    let dropped = callbacks::forget(&mut tx, now.plus_millis(-KEPT_MS)).await?;
    tx.commit().await?;
    if late > 0 {
        tracing::warn!(calls = late, "call-backs are given up that couldn't be made in time");
        control.metrics().callbacks_ended("failed", late);
    }
    Ok(dropped)
}

type Ended = std::result::Result<(task::Id, Tried), task::JoinError>;

/// A call that is under way, or whose outcome isn't recorded yet.
struct Busy {
    id: i64,
    receiver: String,
    owner: AccessKey,
}

struct Sender {
    control: Control,
    tries: JoinSet<Tried>,
    busy: HashMap<task::Id, Busy>,
    /// Tries that ended and aren't recorded yet.
    over: Vec<(task::Id, Tried)>,
}

impl Sender {
    fn take(&mut self, ended: Ended) {
        match ended {
            Ok(over) => self.over.push(over),
            Err(error) => {
                // It is tried again as if it had never been.
                self.busy.remove(&error.id());
                if !error.is_cancelled() {
                    tracing::error!(%error, "a call-back ended badly");
                }
            }
        }
    }

    fn collect(&mut self) {
        while let Some(ended) = self.tries.try_join_next_with_id() {
            self.take(ended);
        }
    }

    /// Records what ended, and begins what is due.
    async fn pass(&mut self, measured: bool) -> Result<()> {
        self.record().await?;
        let now = self.control.clock().now();
        let mut reader = self.control.store().reader();
        let mut is_empty = false;
        if measured {
            let pending = callbacks::pending(&mut reader).await?;
            self.control.metrics().callbacks_pending.set(pending);
            is_empty = pending == 0;
        }
        if is_empty || self.busy.len() >= ALL {
            return Ok(());
        }
        // What is under way is still due by the rows: it is among these.
        let due = callbacks::due(&mut reader, now, OF_RECEIVER as i64, OF_OWNER as i64, 2 * ALL as i64).await?;
        let mut client = None;
        for call in due {
            if self.busy.len() >= ALL {
                break;
            }
            if self.may_begin(&call) {
                let client = client.get_or_insert_with(|| outgoing::to_users(&self.control));
                self.begin(client.clone(), call);
            }
        }
        Ok(())
    }

    fn may_begin(&self, call: &Due) -> bool {
        let count = |same: &dyn Fn(&Busy) -> bool| self.busy.values().filter(|busy| same(busy)).count();
        count(&|busy| busy.id == call.id) == 0
            && count(&|busy| busy.receiver == call.receiver) < OF_RECEIVER
            && count(&|busy| busy.owner == call.access_key) < OF_OWNER
    }

    fn begin(&mut self, client: Client, call: Due) {
        let busy = Busy { id: call.id, receiver: call.receiver.clone(), owner: call.access_key.clone() };
        let control = self.control.clone();
        let task = self.tries.spawn(async move { attempt(&control, &client, call).await });
        self.busy.insert(task.id(), busy);
    }

    async fn record(&mut self) -> Result<()> {
        if self.over.is_empty() {
            return Ok(());
        }
        let tried: Vec<Tried> = self.over.iter().map(|(_, tried)| tried.clone()).collect();
        let (store, now) = (self.control.store(), self.control.clock().now());
        crate::retry(|| async {
            let mut tx = store.begin().await?;
            callbacks::record(&mut tx, &tried, now).await?;
            Ok(tx.commit().await?)
        })
        .await?;
        for (task, tried) in self.over.drain(..) {
            self.busy.remove(&task);
            let outcome = match tried.outcome {
                Outcome::Delivered => "delivered",
                Outcome::Failed { .. } => "failed",
                Outcome::Again { .. } => "retried",
            };
            self.control.metrics().callbacks_ended(outcome, 1);
        }
        Ok(())
    }

    /// Lets those finish that do so at once. The others are called again, by whoever leads next.
    async fn end(mut self) {
        let _ = tokio::time::timeout(FAREWELL, async {
            while let Some(ended) = self.tries.join_next_with_id().await {
                self.take(ended);
            }
        })
        .await;
        if let Err(error) = self.record().await {
            tracing::warn!(%error, "call-backs that were made can't be noted: they will be made again");
        }
        self.control.metrics().callbacks_pending.set(0);
    }
}

async fn attempt(control: &Control, client: &Client, call: Due) -> Tried {
    let attempts = call.attempts + 1;
    let now = control.clock().now();
    let answer = match request(&call, now) {
        Ok(request) => client.send(request).await,
        Err(error) => Err(error),
    };
    let outcome = judge(answer, attempts, control.clock().now(), rand::random());
    // The address' path and query may hold secrets.
    let (session, event, receiver) = (call.session, &call.event, &call.receiver);
    match &outcome {
        Outcome::Delivered => tracing::debug!(%session, event, receiver, attempts, "called back"),
        Outcome::Again { fault, .. } => {
            tracing::info!(%session, event, receiver, attempts, fault, "a call-back failed; it will be tried again");
        }
        Outcome::Failed { fault } => {
            tracing::warn!(%session, event, receiver, attempts, fault, "a call-back failed for good");
        }
    }
    Tried { id: call.id, attempts, outcome }
}

fn request(call: &Due, now: Timestamp) -> quarterdeck_outgoing::Result<Request> {
    let url = Url::parse(&call.url).map_err(|_| quarterdeck_outgoing::Error::Url(call.receiver.clone()))?;
    let body = json!({
        "type": "session_lifecycle", "event": call.event, "session_id": call.session, "when": now.iso(),
    })
    .to_string();
    let signature = signature(&call.secret, now.millis().div_euclid(1000), &body);
    Request::post(url, body)?
        .header("content-type", "application/json")?
        .header(SIGNATURE, &signature)?
        // The same at each try, and of no other call.
        .header(DELIVERY, &format!("{}.{}", call.session, call.id))
        .map(|request| request.within(PATIENCE).at_most(ANSWER))
}

/// `t=TIME,v1=HEX`: who knows the secret knows who sent that body, and when.
fn signature(secret: &str, seconds: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", crate::hex::hex(&mac.finalize().into_bytes()))
}

/// What a try's answer means. `dice`: from 0 to 1.
fn judge(answer: quarterdeck_outgoing::Result<Response>, attempts: i64, now: Timestamp, dice: f64) -> Outcome {
    use quarterdeck_outgoing::Error as Outgoing;
    let (fault, is_final, asked_ms) = match answer {
        Ok(response) => {
            let asked = response.header("retry-after").and_then(|value| value.trim().parse::<u32>().ok());
            match response.status() {
                200..=299 => return Outcome::Delivered,
                status => (format!("status {status}"), !may_change(status), asked.map(|s| i64::from(s) * 1000)),
            }
        }
        // Its text has the address.
        Err(Outgoing::Url(_)) => ("the address can't be called".to_owned(), true, None),
        Err(error) => {
            let is_final = matches!(error, Outgoing::Refused(_) | Outgoing::Header(_) | Outgoing::TooLarge { .. });
            (error.to_string(), is_final, None)
        }
    };
    if is_final || attempts >= TRIES {
        return Outcome::Failed { fault };
    }
    Outcome::Again { at: now.plus_millis(pause_ms(attempts, asked_ms, dice)), fault }
}

/// Whether a receiver that answers so may think better of it. Redirections aren't followed: what they lead to was given by
/// nobody.
fn may_change(status: u16) -> bool {
    matches!(status, 408 | 425 | 429) || status >= 500
}

/// The pause after the try of that number, a quarter more or less, so that what failed together doesn't come back together.
fn pause_ms(attempts: i64, asked_ms: Option<i64>, dice: f64) -> i64 {
    let before = attempts.saturating_sub(1).clamp(0, TRIES);
    let pause = (FIRST_PAUSE_MS << (2 * before)).min(LONGEST_PAUSE_MS);
    let spread = (pause as f64 * (0.75 + dice / 2.0)) as i64;
    spread.max(asked_ms.unwrap_or(0).min(LONGEST_PAUSE_MS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use quarterdeck_outgoing::Error as Outgoing;

    #[test]
    fn addresses_are_of_the_web_without_credentials() {
        let long = format!("http://h/{}", "x".repeat(LONGEST_URL));
        for bad in ["nowhere", "ftp://h/", "mailto:me@h", "http://me:pw@h/", "http://", "file:///etc/passwd", &long] {
            let Err(Error::InvalidParams { msg, data }) = check(Some(bad)) else { panic!("{bad}") };
            assert!(msg.starts_with("callback_url: "), "{msg}");
            assert!(data.unwrap()["callback_url"].is_string());
        }
        for good in ["http://h", "HTTPS://example.org:8443/a?b=c", "http://[fd00::1]/"] {
            check(Some(good)).unwrap();
        }
        check(None).unwrap();
    }

    #[test]
    fn signatures_are_what_the_documentation_says() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        assert_eq!(signature("secret", 1_700_000_000, r#"{"a":1}"#), expected);
    }

    #[test]
    fn pauses_grow_and_spread() {
        let whole: Vec<_> = (1..TRIES).map(|n| pause_ms(n, None, 0.5)).collect();
        assert_eq!(whole, [2_000, 8_000, 32_000, 128_000, 512_000]);
        assert_eq!((pause_ms(1, None, 0.0), pause_ms(1, None, 1.0)), (1_500, 2_500));
        assert_eq!(pause_ms(1, Some(60_000), 0.5), 60_000);
        assert_eq!(pause_ms(1, Some(i64::MAX), 0.5), LONGEST_PAUSE_MS);
        assert_eq!(pause_ms(i64::MAX, None, 0.5), LONGEST_PAUSE_MS);
    }

    #[test]
    fn what_may_pass_is_tried_again_a_bounded_number_of_times() {
        let transient = || Err(Outgoing::Unreachable { host: "h".to_owned(), reason: "no".to_owned() });
        let judged = |answer, attempts| judge(answer, attempts, Timestamp(0), 0.5);
        let again =
            |ms| Outcome::Again { at: Timestamp(0).plus_millis(ms), fault: "h can't be reached: no".to_owned() };
        assert_eq!(judged(transient(), 1), again(2_000));
        assert_eq!(judged(transient(), TRIES - 1), again(512_000));
        assert!(matches!(judged(transient(), TRIES), Outcome::Failed { .. }));
        for error in [Outgoing::Refused("10.0.0.1:80".to_owned()), Outgoing::Url("http://h/?token=1".to_owned())] {
            let Outcome::Failed { fault } = judged(Err(error), 1) else { panic!("it is tried again") };
            assert!(!fault.contains("token"), "{fault}");
        }
        let lasting = [301, 400, 401, 404, 410, 422].into_iter().filter(|status| may_change(*status)).count();
        let passing = [408, 425, 429, 500, 502, 503, 504].into_iter().filter(|status| may_change(*status)).count();
        assert_eq!((lasting, passing), (0, 7));
    }
}
