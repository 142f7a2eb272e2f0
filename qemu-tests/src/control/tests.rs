use super::*;
use crate::{Times, within};
use std::os::unix::net::UnixListener;
use std::process::Command;

/// The module's end, played by threads on the host: runs what it is told by the host's shell.
fn module(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut first = stream.try_clone().unwrap();
        first.write_all(b"ready\n").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            let mut writer = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                let (id, coded) = line.split_once(' ').unwrap();
                let command = String::from_utf8(BASE64.decode(coded).unwrap()).unwrap();
                if command.contains("hang up") {
                    return writer.shutdown(Shutdown::Both).unwrap();
                }
                let ended = Command::new("sh").args(["-c", &command]).output().unwrap();
                let (head, tail) = ended.stdout.split_at(ended.stdout.len() / 2);
                let mut reply = String::new();
                for part in [head, tail] {
                    reply += &format!("{id} out {}\n", BASE64.encode(part));
                }
                reply += &format!("{id} exit {}\n", ended.status.code().unwrap());
                writer.write_all(reply.as_bytes()).unwrap();
            });
        }
    });
}

fn connected() -> (tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ctl");
    module(&socket);
    let control = Control::connect(3, &socket).unwrap();
    (dir, control)
}

#[test]
fn a_command_brings_its_output_and_its_exit_code() {
    let (_dir, control) = connected();
    let output = control.exec("echo it\\'s 'two  words'; exit 7", within(10.s())).unwrap();
    assert_eq!(output, Output { status: 7, stdout: "it's two  words\n".to_owned() });
}

#[test]
fn requests_overlap_and_each_gets_its_own_reply() {
    let (_dir, control) = connected();
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                (
                    n,
                    scope.spawn({
                        let control = &control;
                        move || control.exec(&format!("echo {n}"), within(20.s()))
                    }),
                )
            })
            .collect();
        for (n, task) in tasks {
            assert_eq!(task.join().unwrap().unwrap().stdout, format!("{n}\n"));
        }
    });
}

#[test]
fn a_command_that_takes_too_long_is_named_with_its_limit() {
    let (_dir, control) = connected();
    let error = control.exec("sleep 60", within(200.ms())).unwrap_err();
    assert!(
        matches!(&error, SimError::NoAnswer { slot: 3, command, .. } if command == "sleep 60"),
        "{error}"
    );
}

#[test]
fn a_channel_that_closes_ends_the_wait_at_once() {
    let (_dir, control) = connected();
    assert!(matches!(control.exec("hang up", within(60.s())), Err(SimError::Off { slot: 3 })));
    assert!(matches!(control.exec("true", within(60.s())), Err(SimError::Off { slot: 3 })));
}
