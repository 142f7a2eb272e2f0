//! Passwords, tokens, roles, and the audit trail.

use crate::support::{
    MANIFEST, Registry, body, client, code, header, layout, manifest, noise, program, run, sha256, skopeo,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};
use tempfile::{TempDir, tempdir};
use ureq::{Body, http::Response};

/// A line for the password file, made by the program itself.
fn password_line(user: &str, password: &str) -> String {
    let mut child = Command::new(program())
        .args(["passwd", user])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn guarded(anonymous: bool) -> (TempDir, Registry) {
    let home = tempdir().unwrap();
    let file = home.path().join("htpasswd");
    let lines =
        [password_line("ground", "g:round"), password_line("crew", "crew"), password_line("chief", "chief")];
    fs::write(&file, format!("# who may\n\n{}", lines.concat())).unwrap();
    let text = format!(
        r#"
[audit]
file = {audit:?}
[auth]
htpasswd = {file:?}
anonymous_pull = {anonymous}
[[auth.grant]]
user = "ground"
prefix = "flight"
role = "push"
[[auth.grant]]
user = "*"
role = "pull"
[[auth.grant]]
user = "chief"
role = "admin"
"#,
        audit = home.path().join("audit.log"),
    );
    let registry = Registry::configured(home.path(), &text);
    (home, registry)
}

fn basic(user: &str, password: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn ask(registry: &Registry, method: &str, path: &str, authorization: Option<&str>) -> Response<Body> {
    let mut request = ureq::http::Request::builder().method(method).uri(registry.url(path));
    if let Some(text) = authorization {
        request = request.header("authorization", text);
    }
    client().run(request.body(()).unwrap()).unwrap()
}

fn token(registry: &Registry, authorization: Option<&str>, scope: &str) -> String {
    let mut answer = ask(registry, "GET", &format!("/token?service=x&scope={scope}"), authorization);
    assert_eq!(answer.status(), 200);
    let value: Value = serde_json::from_slice(&body(&mut answer)).unwrap();
    assert!(value["expires_in"].as_u64().unwrap() >= 60);
    assert_eq!(value["token"], value["access_token"]);
    format!("Bearer {}", value["token"].as_str().unwrap())
}

#[test]
fn the_token_flow() {
    let (_home, registry) = guarded(false);
    let mut first = ask(&registry, "GET", "/v2/", None);
    assert_eq!((first.status().as_u16(), code(&mut first).as_str()), (401, "UNAUTHORIZED"));
    let host = format!("127.0.0.1:{}", registry.port);
    assert_eq!(
        header(&first, "www-authenticate"),
        format!("Bearer realm=\"http://{host}/token\",service=\"{host}\"")
    );
    let refused = ask(&registry, "POST", "/v2/flight/app/blobs/uploads/", None);
    assert!(header(&refused, "www-authenticate").ends_with(",scope=\"repository:flight/app:pull,push\""));
    assert_eq!(ask(&registry, "GET", "/token", Some(&basic("ground", "wrong"))).status(), 401);
    assert_eq!(ask(&registry, "GET", "/token", Some(&basic("nobody", "wrong"))).status(), 401);

    let ground = basic("ground", "g:round");
    let push = token(&registry, Some(&ground), "repository:flight/app:pull,push");
    let status = |method, path: &str, text: &str| ask(&registry, method, path, Some(text)).status().as_u16();
    assert_eq!(status("GET", "/v2/", &push), 200);
    assert_eq!(status("POST", "/v2/flight/app/blobs/uploads/", &push), 202);
    // The token is good for that repository only, the user for what is below the prefix.
    assert_eq!(status("POST", "/v2/flight/other/blobs/uploads/", &push), 401);
    assert_eq!(status("POST", "/v2/flighty/blobs/uploads/", &ground), 403);
    assert_eq!(status("POST", "/v2/flight/other/blobs/uploads/", &ground), 202);
    let pull = token(&registry, Some(&ground), "repository:flight/app:pull");
    assert_eq!(status("POST", "/v2/flight/app/blobs/uploads/", &pull), 401);
    assert_eq!(status("GET", "/v2/flight/app/manifests/none", &pull), 404);
    // Deleting is for the chief.
    assert_eq!(status("DELETE", "/v2/flight/app/manifests/none", &ground), 403);
    assert_eq!(status("DELETE", "/v2/flight/app/manifests/none", &basic("chief", "chief")), 404);
    assert_eq!(status("POST", "/v2/_space/gc", &ground), 403);
    assert_eq!(status("POST", "/v2/_space/gc", &basic("chief", "chief")), 200);
    for forged in ["Bearer x.y", "Bearer", "Digest x", "Basic %%"] {
        assert_eq!(status("GET", "/v2/", forged), 401, "{forged}");
    }
    let form = client()
        .post(registry.url("/token"))
        .header("content-type", "application/x-www-form-urlencoded")
        .send("grant_type=password&username=crew&password=crew&scope=repository:a:pull")
        .unwrap();
    assert_eq!(form.status(), 200);
}

#[test]
fn anonymous_pull_only_where_it_is_allowed() {
    for allowed in [false, true] {
        let (_home, registry) = guarded(allowed);
        let expected = if allowed { 404 } else { 401 };
        let status =
            |method, path: &str, text: Option<&str>| ask(&registry, method, path, text).status().as_u16();
        assert_eq!(status("GET", "/v2/a/manifests/none", None), expected);
        let anonymous = token(&registry, None, "repository:a:pull,push");
        assert_eq!(status("GET", "/v2/a/manifests/none", Some(&anonymous)), expected);
        assert_eq!(status("POST", "/v2/a/blobs/uploads/", Some(&anonymous)), 401);
        assert_eq!(status("POST", "/v2/a/blobs/uploads/", None), 401);
        assert_eq!(status("DELETE", "/v2/a/manifests/none", None), 401);
        // Clients must learn that they can log in.
        assert_eq!(status("GET", "/v2/", None), 401);
    }
}

#[test]
fn skopeo_logs_in_and_the_trail_says_who() {
    let (home, registry) = guarded(false);
    let work = tempdir().unwrap();
    layout(&work.path().join("image"), &noise(3, 10_000));
    let source = format!("oci:{}:tag", work.path().join("image").display());
    let image = format!("docker://127.0.0.1:{}/flight/app:1", registry.port);
    skopeo(&work, &["copy", "--dest-creds", "ground:g:round", "--dest-tls-verify=false", &source, &image]);
    skopeo(&work, &["inspect", "--creds", "crew:crew", "--tls-verify=false", &image]);
    skopeo(&work, &["delete", "--creds", "chief:chief", "--tls-verify=false", &image]);
    let lines: Vec<Value> = fs::read_to_string(home.path().join("audit.log"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |line: &Value| {
        ["act", "user", "peer", "repository", "reference"].map(|key| line[key].as_str().unwrap().to_owned())
    };
    let push = lines.iter().find(|line| line["act"] == "push-manifest").unwrap();
    assert_eq!(said(push), ["push-manifest", "ground", "127.0.0.1", "flight/app", "1"]);
    assert_eq!(lines.iter().filter(|line| line["act"] == "push-blob").count(), 2);
    let delete = lines.iter().find(|line| line["act"] == "delete-manifest").unwrap();
    assert_eq!(delete["user"], "chief");
    assert!(push["time"].as_str().unwrap().starts_with("20"));
}

#[test]
fn the_catalog_shows_what_one_may_see() {
    let home = tempdir().unwrap();
    let file = home.path().join("htpasswd");
    fs::write(&file, [password_line("one", "1"), password_line("all", "2")].concat()).unwrap();
    let text = format!(
        "[auth]\nhtpasswd = {file:?}\n[[auth.grant]]\nuser = \"one\"\nprefix = \"a\"\nrole = \"push\"\n[[auth.grant]]\nuser = \"all\"\nrole = \"admin\"\n"
    );
    let registry = Registry::configured(home.path(), &text);
    let all = basic("all", "2");
    for repository in ["a/x", "b"] {
        let blob = b"{}";
        let url = registry.url(&format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(blob)));
        client().post(&url).header("authorization", &all).send(&blob[..]).unwrap();
        let url = registry.url(&format!("/v2/{repository}/manifests/v"));
        let text = manifest(&sha256(blob), &sha256(blob), "");
        let put =
            client().put(&url).header("authorization", &all).header("content-type", MANIFEST).send(&text);
        assert_eq!(put.unwrap().status(), 201);
    }
    let seen = |text: &str| {
        let mut answer = ask(&registry, "GET", "/v2/_catalog", Some(text));
        serde_json::from_slice::<Value>(&body(&mut answer)).unwrap()["repositories"].clone()
    };
    assert_eq!(seen(&all), serde_json::json!(["a/x", "b"]));
    assert_eq!(seen(&basic("one", "1")), serde_json::json!(["a/x"]));
    // A blob of a repository that one may not read cannot be mounted from it.
    let mount = format!("/v2/a/new/blobs/uploads/?mount={}&from=b", sha256(b"{}"));
    assert_eq!(ask(&registry, "POST", &mount, Some(&basic("one", "1"))).status(), 202);
    assert_eq!(ask(&registry, "POST", &mount, Some(&all)).status(), 201);
    // A password that is added counts at once.
    fs::write(&file, [password_line("all", "2"), password_line("one", "new")].concat()).unwrap();
    assert_eq!(ask(&registry, "GET", "/v2/", Some(&basic("one", "1"))).status(), 401);
    assert_eq!(ask(&registry, "GET", "/v2/", Some(&basic("one", "new"))).status(), 200);
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let home = tempdir().unwrap();
    let config = home.path().join("registry.toml");
    let file = home.path().join("htpasswd");
    fs::write(&file, "user:{SHA}plain\n").unwrap();
    let start = |text: &str, file: &Path| {
        fs::write(file, format!("root = {:?}\nlisten = \"127.0.0.1:0\"\n{text}", home.path().join("root")))
            .unwrap();
        run(&["serve", "--config", file.to_str().unwrap(), "--insecure-http"])
    };
    let grant = "[[auth.grant]]\nuser = \"*\"\nrole = \"pull\"\n";
    let auth = format!("[auth]\nhtpasswd = {file:?}\n");
    for (text, parts) in [
        (format!("{auth}{grant}"), ["auth.htpasswd", "line 1 is not USER:BCRYPT"]),
        (format!("[auth]\nhtpasswd = \"/nowhere\"\n{grant}"), ["auth.htpasswd /nowhere", "cannot be read"]),
        (auth.clone(), ["auth.grant", "nobody may do anything"]),
        (
            format!("{auth}{}", grant.replace("pull", "king")),
            ["role", "expected one of `pull`, `push`, `admin`"],
        ),
        ("[[replica]]\nurl = \"http://module-2:5000\"\n".into(), ["replica.url", "https://HOST:PORT"]),
        (
            "[[replica]]\nurl = \"https://module-2:5000\"\nca = \"/nowhere\"\n".into(),
            ["https://module-2:5000", "/nowhere"],
        ),
        ("[audit]\nfile = \"/nowhere/x\"\n".into(), ["audit.file", "/nowhere/x"]),
        ("[storage]\nquota = \"much\"\n".into(), ["quota", "unit"]),
    ] {
        let (status, message) = start(&text, &config);
        assert_eq!((status, message.matches('\n').count()), (78, 1), "{text}\n{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}
