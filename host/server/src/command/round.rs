//! `quarterdeck round …`: the flight recorder of a running server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value as Json, json};

use crate::client::{ApiClient, EndpointArgs};
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct RoundArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: RoundCommand,
}

#[derive(Debug, Subcommand)]
enum RoundCommand {
    /// List the rounds of the ring, newest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Show what was decided in a round, and why
    Show {
        /// The round's id
        id: i64,
    },
    /// Write recordings as lines of JSON, for `quarterdeck plugin replay --rounds`
    Export {
        /// Ids of rounds; without any, those that the filters let through
        ids: Vec<i64>,
        #[command(flatten)]
        filter: FilterArgs,
        /// The newest so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Replace the names of groups, sessions, agents, owners, projects, domains and images by pseudonyms, and drop
        /// other texts
        #[arg(long)]
        pseudonymise: bool,
        /// Where to; standard output without it. A name that ends in `.zst` gets a compressed file
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Play a round once more on the server, and show what would have been decided otherwise
    Replay {
        /// The round's id
        id: i64,
        /// NAME, NAME@VERSION, or the beginning of a digest; the round's own policy without it
        plugin: Option<String>,
        /// Configuration: a JSON file; the round's own for its own policy, and none for others without it
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Units of fuel that the policy may use
        #[arg(long, value_name = "N")]
        fuel: Option<u64>,
    },
    /// Play a round with two policies, or one with two configurations, and compare
    Diff {
        /// The round's id
        id: i64,
        /// NAME, NAME@VERSION, the beginning of a digest, or `recorded` for what was decided then
        left: String,
        /// The other side, likewise
        right: String,
        /// Configuration of the left side: a JSON file
        #[arg(long, value_name = "FILE")]
        left_config: Option<PathBuf>,
        /// Configuration of the right side: a JSON file
        #[arg(long, value_name = "FILE")]
        right_config: Option<PathBuf>,
        /// Units of fuel that each policy may use
        #[arg(long, value_name = "N")]
        fuel: Option<u64>,
    },
}

/// Which rounds are meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Of a scaling group
    #[arg(long, value_name = "GROUP")]
    pub(crate) scaling_group: Option<String>,
    /// By a scheduler of this name
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// With an outcome: `ok`, `failed`, or one word such as `trap` or `timeout`
    #[arg(long, value_name = "WORD")]
    outcome: Option<String>,
    /// Begun then or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// With smaller ids
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
}

impl FilterArgs {
    /// As a query, with a limit.
    pub(crate) fn query(&self, limit: u32) -> String {
        let mut query = format!("limit={limit}");
        let texts = [
            ("scaling_group", self.scaling_group.as_deref()),
            ("plugin", self.plugin.as_deref()),
            ("outcome", self.outcome.as_deref()),
            ("since", self.since.as_deref()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                query.push_str(&format!("&{name}={}", encode(text)));
            }
        }
        if let Some(before) = self.before {
            query.push_str(&format!("&before={before}"));
        }
        query
    }
}

/// Percent-encodes everything but unreserved characters.
fn encode(text: &str) -> String {
    quarterdeck_control::config::quote(text)
}

pub(crate) async fn run(args: RoundArgs) -> anyhow::Result<ExitCode> {
    let client = ApiClient::new(&args.endpoint)?;
    match args.command {
        RoundCommand::List { filter, limit } => {
            let answer = client.call(Method::GET, &format!("/plugins/rounds?{}", filter.query(limit)), None).await?;
            if args.json { table::json(&answer)? } else { print_list(&answer)? }
        }
        RoundCommand::Show { id } => {
            let answer = client.call(Method::GET, &format!("/plugins/rounds/{id}"), None).await?;
            if args.json { table::json(&answer)? } else { print_round(&answer)? }
        }
        RoundCommand::Export { ids, filter, limit, pseudonymise, output } => {
            let mut path = format!("/plugins/rounds/export?{}", filter.query(limit));
            if !ids.is_empty() {
                let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
                path.push_str(&format!("&id={}", ids.join(",")));
            }
            if pseudonymise {
                path.push_str("&pseudonymise=true");
            }
            let compressed = output.as_deref().is_some_and(|file| file.extension().is_some_and(|e| e == "zst"));
            if compressed {
                path.push_str("&compression=zstd");
            }
            export(&client, &path, output.as_deref()).await?;
        }
        RoundCommand::Replay { id, plugin, config, fuel } => {
            let mut body = candidate(plugin.as_deref(), config.as_deref())?;
            if let Some(fuel) = fuel {
                body["fuel"] = json!(fuel);
            }
            let answer = client.call(Method::POST, &format!("/plugins/rounds/{id}/replay"), Some(&body)).await?;
            if args.json { table::json(&answer)? } else { print_comparison(&answer)? }
        }
        RoundCommand::Diff { id, left, right, left_config, right_config, fuel } => {
            let side = |name: &str, config: Option<&Path>| match name {
                "recorded" => Ok(Json::Null),
                name => candidate(Some(name), config),
            };
            let mut body = json!({
                "left": side(&left, left_config.as_deref())?,
                "right": side(&right, right_config.as_deref())?,
            });
            if let Some(fuel) = fuel {
                body["fuel"] = json!(fuel);
            }
            let answer = client.call(Method::POST, &format!("/plugins/rounds/{id}/diff"), Some(&body)).await?;
            if args.json { table::json(&answer)? } else { print_comparison(&answer)? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn candidate(plugin: Option<&str>, config: Option<&Path>) -> anyhow::Result<Json> {
    let mut body = json!({});
    if let Some(plugin) = plugin {
        body["plugin"] = json!(plugin);
    }
    if let Some(path) = config {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        body["config"] = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    }
    Ok(body)
}

/// Streams an export to a file, which appears when it is complete, or to standard output.
async fn export(client: &ApiClient, path: &str, output: Option<&Path>) -> anyhow::Result<()> {
    let Some(output) = output else {
        let mut out = std::io::stdout().lock();
        client.download(path, &mut |bytes| out.write_all(bytes)).await?;
        return Ok(out.flush()?);
    };
    let name = output.file_name().with_context(|| format!("{} is no file", output.display()))?;
    let partial = output.with_file_name(format!(".{}.part", name.to_string_lossy()));
    let written = async {
        let mut file = std::fs::File::create(&partial).with_context(|| partial.display().to_string())?;
        let mut size = 0;
        client
            .download(path, &mut |bytes| {
                size += bytes.len();
                file.write_all(bytes)
            })
            .await?;
        file.sync_all()?;
        std::fs::rename(&partial, output).with_context(|| output.display().to_string())?;
        anyhow::Ok(size)
    };
    match written.await {
        Ok(size) => eprintln!("wrote {} ({size} bytes)", output.display()),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    }
    Ok(())
}

fn text(value: &Json, key: &str) -> String {
    match &value[key] {
        Json::Null => String::new(),
        Json::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Microseconds for people.
fn millis(value: &Json) -> String {
    value.as_u64().map_or_else(String::new, |us| format!("{:.1} ms", us as f64 / 1000.0))
}

fn rows(value: &Json) -> impl Iterator<Item = &Json> {
    value.as_array().into_iter().flatten()
}

fn print_list(answer: &Json) -> std::io::Result<()> {
    table::print(
        &["ID", "AT", "GROUP", "PLUGIN", "PENDING", "PLACED", "DEFERRED", "REFUSED", "TOOK", "BYTES", "OUTCOME"],
        rows(&answer["rounds"]).map(|r| {
            vec![
                text(r, "id"),
                text(r, "at"),
                text(r, "scaling_group"),
                format!("{}@{}", text(r, "plugin"), text(r, "version")),
                text(r, "pending"),
                text(r, "placed"),
                text(r, "deferred"),
                text(r, "refused"),
                millis(&r["duration_us"]),
                if r["recorded"] == json!(true) { text(r, "recording_bytes") } else { "-".to_owned() },
                text(r, "outcome"),
            ]
        }),
    )
}

fn print_round(r: &Json) -> std::io::Result<()> {
    let recording = &r["recording"];
    let sizes = &recording["sizes"];
    let facts = [
        ("round", text(r, "id")),
        ("began", text(r, "at")),
        ("scaling group", text(r, "scaling_group")),
        ("policy", format!("{}@{} ({})", text(r, "plugin"), text(r, "version"), text(r, "digest"))),
        ("configuration", text(&recording["plugin"], "config")),
        ("outcome", text(r, "outcome")),
        ("decided by", text(&recording["fallback"], "name")),
        (
            "sessions",
            format!(
                "{} pending: {} placed, {} deferred, {} refused, {} stale",
                text(r, "pending"),
                text(r, "placed"),
                text(r, "deferred"),
                text(r, "refused"),
                text(r, "stale")
            ),
        ),
        ("agents", text(sizes, "agents")),
        ("took", millis(&r["duration_us"])),
    ];
    let shown = facts.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| vec![k.to_owned(), v]);
    table::print(&["", ""], shown)?;
    if recording.is_null() {
        eprintln!("no recording: its decisions can't be shown or replayed");
        return Ok(());
    }
    table::print(
        &["SESSION", "NAME", "OWNER", "DECISION", "WHY"],
        rows(&recording["decisions"])
            .map(|d| vec![text(d, "session"), text(d, "name"), text(d, "owner"), fate(d), why(d)]),
    )?;
    if let Some(left_out) = recording["decisions_left_out"].as_u64().filter(|n| *n > 0) {
        eprintln!("and {left_out} more");
    }
    for line in rows(&recording["journal"]["lines"]) {
        eprintln!("{}: {}", text(line, "level").to_lowercase(), text(line, "message"));
    }
    Ok(())
}

/// What became of a session, in words.
pub(crate) fn fate(d: &Json) -> String {
    let mut out = text(d, "fate");
    let agents: Vec<&str> = rows(&d["agents"]).filter_map(Json::as_str).collect();
    if !agents.is_empty() {
        out.push_str(" on ");
        out.push_str(&agents.join(", "));
    }
    if let Some(why) = d["why"].as_str() {
        out.push_str(": ");
        out.push_str(why);
    }
    out
}

/// What its user was told.
fn why(d: &Json) -> String {
    let reason = &d["reason"];
    let failed = rows(&reason["failed"]).filter_map(|pair| pair[1].as_str());
    let words: Vec<&str> = failed.chain(reason["message"].as_str()).collect();
    words.join("; ").replace('\n', " ")
}

/// Two takes of a round, and how they differ.
pub(crate) fn print_comparison(answer: &Json) -> std::io::Result<()> {
    let take = |side: &Json| {
        let plugin = &side["plugin"];
        let how = match side["replay"]["outcome"].as_str() {
            None => "as recorded".to_owned(),
            Some("ok") => format!("replayed, {} fuel", text(&side["replay"], "fuel_used")),
            Some(failed) => format!("FAILED: {failed}"),
        };
        format!("{}@{} ({how})", text(plugin, "name"), text(plugin, "version"))
    };
    eprintln!("round {} of {}", text(answer, "id"), text(answer, "scaling_group"));
    eprintln!("left:  {}", take(&answer["left"]));
    eprintln!("right: {}", take(&answer["right"]));
    table::print(&["", "LEFT", "RIGHT"], metric_rows(&answer["left_metrics"], &answer["right_metrics"]))?;
    if answer["same"] == json!(true) {
        eprintln!("no difference");
        return Ok(());
    }
    if let Some(turn) = answer["order_parts_at"].as_u64() {
        eprintln!("the order of turns parts at turn {}", turn + 1);
    }
    if rows(&answer["changes"]).next().is_some() {
        table::print(
            &["SESSION", "NAME", "LEFT", "RIGHT"],
            rows(&answer["changes"])
                .map(|c| vec![text(c, "session"), text(c, "name"), fate(&c["left"]), fate(&c["right"])]),
        )?;
    }
    if let Some(left_out) = answer["left_out"].as_u64().filter(|n| *n > 0) {
        eprintln!("and {left_out} more");
    }
    Ok(())
}

/// The numbers of two takes, row by row.
pub(crate) fn metric_rows(left: &Json, right: &Json) -> Vec<Vec<String>> {
    let plain = |name: &str, key: &str| vec![name.to_owned(), text(left, key), text(right, key)];
    let seconds = |name: &str, key: &str| {
        let show = |m: &Json| m[key].as_u64().map_or_else(String::new, |ms| format!("{:.1}", ms as f64 / 1000.0));
        vec![name.to_owned(), show(left), show(right)]
    };
    let decimal = |name: &str, key: &str| {
        let show = |m: &Json| m[key].as_f64().map_or_else(String::new, |n| format!("{n:.3}"));
        vec![name.to_owned(), show(left), show(right)]
    };
    let mut out = vec![
        plain("pending", "pending"),
        plain("placed", "placed"),
        plain("deferred", "deferred"),
        plain("refused", "refused"),
        plain("untouched", "untouched"),
        seconds("waited by the placed, s", "placed_waited_ms"),
        seconds("waited by the others, s", "left_waited_ms"),
        plain("agents touched", "agents_touched"),
        plain("largest shape still fits", "fits"),
        decimal("fragmentation", "fragmentation"),
        decimal("fairness (Jain)", "fairness"),
    ];
    for (left, right) in rows(&left["used"]).zip(rows(&right["used"])) {
        let percent = |m: &Json| m["share"].as_f64().map_or_else(String::new, |n| format!("{:.1} %", n * 100.0));
        out.push(vec![format!("used {}", text(left, "slot")), percent(left), percent(right)]);
    }
    out
}
