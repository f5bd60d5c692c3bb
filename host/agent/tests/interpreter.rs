//! Code in real interpreters.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Rig, spec, text, until};
use quarterdeck_agent::RuntimeKind;
use quarterdeck_rpc::pb::report::Event;
use quarterdeck_rpc::{CallError, TerminalOutput, pb};
use serde_json::{Value, json};

#[tokio::test]
async fn python_keeps_its_state_and_tells_streams_apart() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let info: Value = rig
        .event(&kernel, |event| match event {
            Event::Started(started) => Some(serde_json::from_str(&started.runtime_info).unwrap()),
            _ => None,
        })
        .await;
    assert_eq!((&info["runtime"], &info["runtime_type"]), (&json!("process"), &json!("python")));
    assert!(
        info["interpreter"].as_str().unwrap().contains("python") && info["version"].as_str().unwrap().starts_with("3.")
    );

    let result = rig.run_code(&kernel, "x = 41\nprint('hello')").await;
    assert_eq!(result["status"], "finished");
    assert_eq!(result["exitCode"], 0);
    assert_eq!(result["console"], json!([["stdout", "hello\n"]]));
    assert_eq!(result["runId"].as_str().unwrap().len(), 32);
    assert_eq!(result["options"], Value::Null);
    let result = rig.run_code(&kernel, "x + 1").await;
    assert_eq!(result["console"], json!([["stdout", "42\n"]]));

    // Order is kept between streams, and with what other processes print.
    let code = "import sys, os\nprint('one')\nprint('two', file=sys.stderr)\nos.system('echo three; echo four >&2')\nprint('fünf')\nNone";
    for _ in 0..10 {
        let result = rig.run_code(&kernel, code).await;
        let console = result["console"].as_array().unwrap();
        assert_eq!(console[..2], [json!(["stdout", "one\n"]), json!(["stderr", "two\n"])], "{console:?}");
        assert_eq!(text(&result, "stdout"), "one\nthree\nfünf\n");
        assert_eq!(text(&result, "stderr"), "two\nfour\n");
        assert_eq!(console.last().unwrap()[1].as_str().unwrap().lines().last(), Some("fünf"));
    }

    let result = rig.run_code(&kernel, "def f():\n    return 1/0\nf()").await;
    assert_eq!(result["exitCode"], 1);
    let trace = text(&result, "stderr");
    assert!(
        trace.contains("ZeroDivisionError") && trace.contains("return 1/0") && !trace.contains("driver"),
        "{trace}"
    );
    let result = rig.run_code(&kernel, "this is no python").await;
    assert!(text(&result, "stderr").contains("SyntaxError"));
    let result = rig.run_code(&kernel, "import sys; sys.exit(3)").await;
    assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(3)));
    let code = "import multiprocessing as m\ndef g(n):\n    print('child', n)\np = m.Process(target=g, args=(x,))\np.start(); p.join()";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), "child 41\n");
    let code = "import os\n(os.environ['BACKENDAI_KERNEL_ID'], os.environ['HOME'] == os.getcwd(), [f for f in os.listdir('.') if f != 'id_container'])";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), format!("('{kernel}', True, [])\n"));

    let log = rig.log(&kernel).await;
    assert!(log.contains("hello\n") && log.contains("four\n") && log.contains("ZeroDivisionError"), "{log}");
    rig.stop().await;
    assert_eq!(rig.terminated(&kernel).await.reason, "agent-termination");
    assert_eq!(rig.host.notes.lock().left, ["i-test"]);
}

#[tokio::test]
async fn python_shows_what_is_no_text() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let code = "class Table:\n\
                \x20   def __repr__(self): return 'a table'\n\
                \x20   def _repr_html_(self): return '<b>1</b>'\n\
                class Picture:\n\
                \x20   def __repr__(self): return 'a picture'\n\
                \x20   def _repr_png_(self): return b'\\x89PNG'\n\
                print('first')\n\
                display(Picture())\n\
                Table()";
    let result = rig.run_code(&kernel, code).await;
    let media = json!(["media", ["image/png", "iVBORw=="]]);
    let console = json!([["stdout", "first\na picture\n"], media, ["stdout", "a table\n"], ["html", "<b>1</b>"]]);
    assert_eq!(result["console"], console);
    rig.stop().await;
}

#[tokio::test]
async fn python_asks_for_input_and_completes() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let code = "import getpass\nname = input('name? ')\nsecret = getpass.getpass()\nprint(name, secret)";
    let result = rig.execute(&kernel, "r1", "query", code, 60_000).await;
    assert_eq!((&result["status"], &result["options"]), (&json!("waiting-input"), &json!({"is_password": false})));
    assert_eq!(result["console"], json!([["stdout", "name? "]]));
    let result = rig.execute(&kernel, "r1", "input", "Ada\n", 60_000).await;
    assert_eq!((&result["status"], &result["options"]), (&json!("waiting-input"), &json!({"is_password": true})));
    let result = rig.execute(&kernel, "r1", "input", "pst", 60_000).await;
    assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(0)));
    assert_eq!(text(&result, "stdout"), "Ada pst\n");

    let request = |code: &str| quarterdeck_rpc::pb::CompleteRequest {
        kernel_id: kernel.clone(),
        code: code.into(),
        options: "{}".into(),
    };
    let answer: Value = serde_json::from_str(&rig.agent().complete(request("getpass.getp")).await.unwrap()).unwrap();
    assert_eq!(answer["status"], "finished");
    assert!(answer["completions"].to_string().contains("getpass.getpass"), "{answer}");
    rig.stop().await;
}

#[tokio::test]
async fn long_runs_continue_wait_their_turn_and_are_interrupted() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let code = "import time\nprint('begun')\nwhile True: time.sleep(0.01)";
    let result = rig.execute(&kernel, "long", "query", code, 300).await;
    assert_eq!((&result["status"], &result["runId"]), (&json!("continued"), &json!("long")));
    assert_eq!((&result["exitCode"], &result["options"]), (&Value::Null, &Value::Null));
    // Another run has to wait, and says that it goes on.
    let other = rig.execute(&kernel, "other", "query", "print('second')", 100).await;
    assert_eq!((&other["status"], &other["console"]), (&json!("continued"), &json!([])));
    rig.agent().interrupt(&kernel).await.unwrap();
    let result = rig.execute(&kernel, "long", "continue", "", 60_000).await;
    assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(130)));
    assert!(text(&result, "stderr").contains("KeyboardInterrupt"));
    let other = rig.execute(&kernel, "other", "continue", "", 60_000).await;
    assert_eq!((&other["status"], &other["console"]), (&json!("finished"), &json!([["stdout", "second\n"]])));
    // A loop without a pause, and one that prints.
    for code in ["while True: pass", "while True: print('x' * 100)"] {
        let first = rig.execute(&kernel, "", "query", code, 200).await;
        let id = first["runId"].as_str().unwrap().to_owned();
        let interrupting = {
            let (agent, kernel) = (rig.agent(), kernel.clone());
            tokio::spawn(async move { agent.interrupt(&kernel).await })
        };
        let mut status = first["status"].clone();
        while status == "continued" {
            status = rig.execute(&kernel, &id, "continue", "", 500).await["status"].clone();
        }
        interrupting.await.unwrap().unwrap();
        assert_eq!(status, "finished");
    }
    assert_eq!(text(&rig.run_code(&kernel, "1 + 1").await, "stdout"), "2\n");
    let unknown = rig.execute(&kernel, "never", "continue", "", 100).await;
    assert_eq!((&unknown["status"], &unknown["exitCode"]), (&json!("finished"), &json!(130)));
    rig.event(&kernel, |event| matches!(event, Event::Execution(change) if !change.running).then_some(())).await;
    rig.stop().await;
}

#[tokio::test]
async fn shells_keep_their_state() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let mut dash = spec("sh");
    dash.image.as_mut().unwrap().labels.insert("ai.backend.runtime-path".into(), "/bin/sh".into());
    let dash_id = dash.kernel_id.clone();
    rig.create(dash, "INTERACTIVE").await;
    rig.event(&dash_id, |event| matches!(event, Event::Started(_)).then_some(())).await;
    let bash = rig.kernel("shell").await;
    for kernel in [&bash, &dash_id] {
        let result = rig.run_code(kernel, "X=5; mkdir sub; cd sub; echo 'it'\"'s\" here").await;
        assert_eq!(result["console"], json!([["stdout", "it's here\n"]]));
        assert_eq!(result["exitCode"], 0);
        let result = rig.run_code(kernel, "echo $X ${PWD##*/}; cat; (exit 3)").await;
        assert_eq!((text(&result, "stdout").as_str(), &result["exitCode"]), ("5 sub\n", &json!(3)));
        let result = rig.run_code(kernel, "ls /nowhere").await;
        assert!(text(&result, "stderr").contains("/nowhere") && result["exitCode"] != 0);
        // Interrupted in the midst of a command: a shell that hears of it between two (as in a loop of short ones)
        // takes it that the first one coped with it, and goes on.
        let mut first = rig.execute(kernel, "", "query", "echo up; sleep 600; echo no", 200).await;
        let id = first["runId"].as_str().unwrap().to_owned();
        while text(&first, "stdout") != "up\n" {
            assert_eq!(first["status"], "continued");
            first = rig.execute(kernel, &id, "continue", "", 200).await;
        }
        let pressed = Instant::now();
        // Between the shell's fork and the program's begin the signal is lost, as at any terminal: people press again.
        let result = loop {
            rig.agent().interrupt(kernel).await.unwrap();
            let result = rig.execute(kernel, &id, "continue", "", 1_000).await;
            assert_eq!(text(&result, "stdout"), "");
            if result["status"] != "continued" {
                break result;
            }
            assert!(pressed.elapsed() < Duration::from_secs(60), "it goes on: {result}");
        };
        assert_eq!(result["exitCode"], 130);
        assert_eq!(text(&rig.run_code(kernel, "echo $X").await, "stdout"), "5\n");
        // `exit` ends the run; the next one has a fresh shell.
        assert_eq!(rig.run_code(kernel, "exit 7").await["exitCode"], 7);
        assert_eq!(text(&rig.run_code(kernel, "echo \"[$X]\"").await, "stdout"), "[]\n");
    }
    rig.stop().await;
}

#[tokio::test]
async fn batch_mode_runs_its_steps() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    rig.run_code(&kernel, "open('main.py', 'w').write('print(6 * 7)')\nNone").await;
    let options = json!({"clean": null, "build": "echo building", "exec": "*"});
    let steps = collect(&rig, &kernel, options).await;
    let expected = [("clean-finished", 0, ""), ("build-finished", 0, "building\n"), ("finished", 0, "42\n")];
    assert_eq!(steps, expected.map(|(status, code, out)| (status.to_owned(), json!(code), out.to_owned())));
    let steps = collect(&rig, &kernel, json!({"build": "exit 2", "exec": "echo never"})).await;
    let expected = [("clean-finished", 0), ("build-finished", 2), ("finished", 127)];
    assert_eq!(steps, expected.map(|(status, code)| (status.to_owned(), json!(code), String::new())));
    rig.stop().await;
}

async fn collect(rig: &Rig, kernel: &str, options: Value) -> Vec<(String, Value, String)> {
    let mut steps = Vec::new();
    let mut result = rig.execute_with(kernel, "", "batch", "", 60_000, options).await.unwrap();
    loop {
        let status = result["status"].as_str().unwrap().to_owned();
        steps.push((status.clone(), result["exitCode"].clone(), text(&result, "stdout")));
        if status == "finished" {
            return steps;
        }
        let id = result["runId"].as_str().unwrap().to_owned();
        result = rig.execute(kernel, &id, "continue", "", 60_000).await;
    }
}

#[tokio::test]
async fn a_dying_interpreter_ends_its_kernel() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let result = rig.execute(&kernel, "", "query", "import os; os._exit(9)", 60_000).await;
    assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(9)));
    let end = rig.terminated(&kernel).await;
    assert_eq!((end.reason.as_str(), end.exit_code), ("self-terminated", 9));
    until("the kernel's entry to go", || {
        let notes = rig.host.notes.lock();
        notes.heartbeats.last().filter(|(_, beat)| beat.kernels.is_empty()).map(|_| ())
    })
    .await;
    let gone = rig.execute_with(&kernel, "", "query", "1", 100, json!({})).await;
    assert!(matches!(gone, Err(CallError::NotFound(_))), "{gone:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_type_without_interpreter_is_refused() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    assert!(rig.host.notes.lock().registers[0].runtime_types.contains(&"python".to_owned()));
    let kernel = spec("fortran");
    let id = kernel.kernel_id.clone();
    rig.create(kernel, "INTERACTIVE").await;
    let failed = rig
        .event(&id, |event| match event {
            Event::StartFailed(failed) => Some(failed.clone()),
            _ => None,
        })
        .await;
    assert!(failed.message.contains("fortran"), "{failed:?}");
    until("the kernel's entry to go", || {
        let notes = rig.host.notes.lock();
        notes.heartbeats.last().filter(|(_, beat)| beat.kernels.is_empty()).map(|_| ())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(60), rig.stop()).await.unwrap();
}

/// Reads what a terminal shows until `text` is there; what was shown.
async fn shows(output: &mut TerminalOutput, text: &str) -> String {
    let mut shown = Vec::new();
    let read = async {
        while let Some(data) = output.next().await.unwrap() {
            shown.extend(data);
            if String::from_utf8_lossy(&shown).contains(text) {
                return;
            }
        }
        panic!("the terminal ended");
    };
    if tokio::time::timeout(Duration::from_secs(60), read).await.is_err() {
        panic!("{text:?} isn't in {:?}", String::from_utf8_lossy(&shown));
    }
    String::from_utf8_lossy(&shown).into_owned()
}

#[tokio::test]
async fn a_terminal_is_a_real_one_and_stays_when_its_users_leave() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let (input, mut output) = rig.agent().terminal(&kernel).await.unwrap().split();
    assert!(input.resize(41, 119).await);
    // The first prompt of a shell can undo a size that is told meanwhile; the agent tells it again.
    let ask = r#"until [ "$(stty size)" = "41 "119 ]; do sleep 0.02; done; stty size; tty; echo $TERM"#;
    input.type_in(format!("{ask}\n").into_bytes()).await;
    let shown = shows(&mut output, "xterm-256color").await;
    assert!(shown.contains("41 119") && shown.contains("/dev/pts/"), "{shown}");

    // Control keys are signals; jobs are controlled.
    input.type_in(b"sleep 1000\n".to_vec()).await;
    until("the sleeper", || sleepers(&kernel, "1000").then_some(())).await;
    input.type_in(b"\x03".to_vec()).await;
    input.type_in(b"echo it was $?\n".to_vec()).await;
    shows(&mut output, "it was 130").await;
    input.type_in(b"sleep 1001 &\njobs\nkill %1; wait; echo no''body\n".to_vec()).await;
    let shown = shows(&mut output, "nobody").await;
    assert!(shown.contains("Running"), "{shown}");

    // Its window also changes by the word of an execution.
    rig.run_code(&kernel, "%resize 50 132").await;
    input.type_in(br#"until [ "$(stty size)" = "50 "132 ]; do sleep 0.02; done; stty size"#.to_vec()).await;
    input.type_in(b"\n".to_vec()).await;
    shows(&mut output, "50 132").await;
    let pinged = rig.run_code(&kernel, "%ping").await;
    assert_eq!((&pinged["status"], &pinged["exitCode"]), (&json!("finished"), &json!(0)));

    // Who comes later finds the same shell, and what was shown meanwhile.
    input.type_in(b"MARK=left; (sleep 0.3; echo mean''while) &\n".to_vec()).await;
    drop(input);
    while output.next().await.unwrap().is_some() {}
    let (input, mut output) = rig.agent().terminal(&kernel).await.unwrap().split();
    input.type_in(b"wait; echo $MARK behind\n".to_vec()).await;
    shows(&mut output, "left behind").await;
    let (_second, mut other) = rig.agent().terminal(&kernel).await.unwrap().split();
    input.type_in(b"echo for e''verybody\n".to_vec()).await;
    shows(&mut output, "for everybody").await;
    shows(&mut other, "for everybody").await;

    // It ends with its shell, and the next one is new.
    input.type_in(b"exit\n".to_vec()).await;
    while other.next().await.unwrap().is_some() {}
    let (input, mut output) = rig.agent().terminal(&kernel).await.unwrap().split();
    input.type_in(b"echo [$MARK] is gone\n".to_vec()).await;
    shows(&mut output, "[] is gone").await;
    assert!(matches!(rig.agent().terminal("absent").await, Err(CallError::NotFound(_))));

    // A kernel takes its terminal along.
    rig.destroy(&kernel).await;
    while let Ok(Some(_)) = output.next().await {}
}

/// Whether a program of the kernel sleeps for so long.
fn sleepers(kernel: &str, seconds: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|entry| {
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        read("cmdline") == format!("sleep\0{seconds}\0").as_bytes()
            && String::from_utf8_lossy(&read("environ")).contains(kernel)
    })
}

#[tokio::test]
async fn files_go_in_and_out_while_the_kernel_works_with_them() {
    let rig = Rig::start(RuntimeKind::Process).await;
    let kernel = rig.kernel("python").await;
    let agent = rig.agent();
    let large: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
    agent.upload(&kernel, "in/large", &large).await.unwrap();
    let code = "data = open('in/large', 'rb').read(); open('out', 'wb').write(data[::-1]); len(data)";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), "700000\n");
    let request = |path: &str, archive| pb::DownloadFileRequest {
        kernel_id: kernel.clone(),
        path: path.into(),
        archive,
        limit: 1 << 20,
    };
    let back = agent.download(request("/home/work/out", false)).await.unwrap().whole(1 << 20).await.unwrap();
    assert!(back.iter().rev().eq(&large));
    let tar = agent.download(request("in", true)).await.unwrap().whole(2 << 20).await.unwrap();
    assert!(tar.len() > large.len() && tar.starts_with(b"in\0"));
    let listed = agent.list_files(&kernel, ".").await.unwrap();
    assert!(listed.errors.is_empty() && listed.files.contains("\"filename\":\"out\""), "{listed:?}");
    let listed = agent.list_files(&kernel, "absent").await.unwrap();
    assert!(listed.files == "[]" && listed.errors.contains("No such file"), "{listed:?}");
    let refused = agent.upload(&kernel, "../escaped", b"x").await.unwrap_err();
    assert!(matches!(&refused, CallError::Refused(why) if why.contains("outside")), "{refused:?}");
    assert!(matches!(agent.download(request("/etc/passwd", false)).await, Err(CallError::Refused(_))));
    assert!(matches!(agent.upload("absent", "x", b"x").await, Err(CallError::NotFound(_))));

    // An archive of everything, elsewhere on the node.
    let mut commit = agent.commit(&kernel, "user/image.tar.gz").await.unwrap();
    while !commit.next().await.unwrap().done {}
    let archive = rig.state.path().join("i-test/commits/user/image.tar.gz");
    assert!(std::fs::read(&archive).unwrap().starts_with(&[0x1f, 0x8b]));
    assert!(agent.commit(&kernel, "../../elsewhere").await.is_err());

    let synthetic = Rig::start(RuntimeKind::Synthetic).await;
    let kernel = synthetic.kernel("python").await;
    let refusals = [
        synthetic.agent().upload(&kernel, "x", b"x").await.map(drop),
        synthetic.agent().terminal(&kernel).await.map(drop),
        synthetic.agent().list_files(&kernel, ".").await.map(drop),
    ];
    for refused in refusals {
        assert!(matches!(&refused, Err(CallError::Refused(why)) if why.contains("synthetic")), "{refused:?}");
    }
}

#[tokio::test]
async fn node_keeps_its_state_asks_completes_and_is_interrupted() {
    let mut rig = Rig::start(RuntimeKind::Process).await;
    if !rig.host.notes.lock().registers[0].runtime_types.contains(&"nodejs".to_owned()) {
        eprintln!("skipped: this node has no Node.js");
        return rig.stop().await;
    }
    let kernel = rig.kernel("nodejs").await;
    let result = rig.run_code(&kernel, "const x = 41; console.log('hello'); console.error('oops')").await;
    assert_eq!(result["console"], json!([["stdout", "hello\n"], ["stderr", "oops\n"]]));
    assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(0)));
    assert_eq!(text(&rig.run_code(&kernel, "x + 1").await, "stdout"), "42\n");
    let code = "const later = await new Promise((r) => setTimeout(() => r(7), 20));\nlater * 6";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), "42\n");
    assert_eq!(text(&rig.run_code(&kernel, "later").await, "stdout"), "7\n");
    let code = "require('child_process').execSync('echo from a child', { stdio: 'inherit' }); undefined";
    assert_eq!(text(&rig.run_code(&kernel, code).await, "stdout"), "from a child\n");

    let result = rig.run_code(&kernel, "function f() { throw new TypeError('bad') }\nf()").await;
    assert_eq!(result["exitCode"], 1);
    let trace = text(&result, "stderr");
    assert!(trace.contains("TypeError: bad") && trace.contains("<input-") && !trace.contains("driver.js"), "{trace}");
    assert!(text(&rig.run_code(&kernel, "no javascript at all").await, "stderr").contains("SyntaxError"));
    assert_eq!(rig.run_code(&kernel, "process.exit(3)").await["exitCode"], 3);

    let code = "const name = await input('name? ');\nconsole.log('good day', name)";
    let result = rig.execute(&kernel, "r1", "query", code, 60_000).await;
    assert_eq!((&result["status"], &result["options"]), (&json!("waiting-input"), &json!({"is_password": false})));
    assert_eq!(text(&result, "stdout"), "name? ");
    let result = rig.execute(&kernel, "r1", "input", "Ada", 60_000).await;
    assert_eq!((&result["status"], text(&result, "stdout").as_str()), (&json!("finished"), "good day Ada\n"));

    let request = quarterdeck_rpc::pb::CompleteRequest {
        kernel_id: kernel.clone(),
        code: "Math.ma".into(),
        options: "{}".into(),
    };
    let answer: Value = serde_json::from_str(&rig.agent().complete(request).await.unwrap()).unwrap();
    assert_eq!(answer["completions"], json!(["Math.max"]));

    for code in
        ["console.log('up'); while (true) {}", "console.log('up'); await new Promise((r) => setTimeout(r, 600000))"]
    {
        let mut result = rig.execute(&kernel, "", "query", code, 200).await;
        let id = result["runId"].as_str().unwrap().to_owned();
        while !text(&result, "stdout").contains("up") {
            result = rig.execute(&kernel, &id, "continue", "", 200).await;
        }
        rig.agent().interrupt(&kernel).await.unwrap();
        let result = rig.execute(&kernel, &id, "continue", "", 60_000).await;
        assert_eq!((&result["status"], &result["exitCode"]), (&json!("finished"), &json!(130)), "{code}");
    }
    assert_eq!(text(&rig.run_code(&kernel, "x").await, "stdout"), "41\n");
    rig.stop().await;
}
