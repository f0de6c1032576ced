//! Machines and containers as people have them: with variables that are set to nothing, with servers
//! that are slow, dead or on another port, with old compilers.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::process::{Server, data_dir, faceid, free_port};

/// How long a command may take that has limits of a few seconds. Generous: machines are shared.
const SOON: Duration = Duration::from_secs(60);

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a command says that ends soon, whoever it waits for.
fn soon(command: &mut Command) -> Output {
    let began = Instant::now();
    let output = command.output().unwrap();
    assert!(began.elapsed() < SOON, "after {:?}: {}", began.elapsed(), said(&output));
    output
}

/// Every variable that the help of a command names.
fn variables(command: &[&str]) -> Vec<String> {
    let help = faceid().args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let names = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().trim().to_owned());
    names.collect()
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let mut plain = faceid();
    // Of the tests' own.
    plain.env_remove("FACEID_SHUTDOWN_GRACE");
    let plain = plain.args(["serve", "--print-config", "--data-dir", "data"]).output().unwrap();
    let names = variables(&["serve"]);
    assert!(names.len() > 40 && names.iter().any(|name| name == "DATABASE_URL"), "{names:?}");
    let mut command = faceid();
    for name in names.iter().filter(|name| !["FACEID_WEIGHTS_DIR", "FACEID_POSTGRES_DIR"].contains(&name.as_str())) {
        command.env(name, "");
    }
    let emptied = command.args(["serve", "--print-config", "--data-dir", "data"]).output().unwrap();
    assert!(emptied.status.success(), "{}", said(&emptied));
    assert_eq!(said(&plain), said(&emptied));
    // In commands of commands as well: not an address that cannot be parsed, but none.
    let mut command = faceid();
    command.env("FACEID_SERVER", "").env("FACEID_SERVER_TIMEOUT", "");
    let output = command.args(["datasets", "upload", "photos.zip", "--gallery", "people"]).output().unwrap();
    assert!(said(&output).contains("required arguments") && said(&output).contains("--server"), "{}", said(&output));
}

/// What is neither yes nor no opens nothing.
#[test]
fn a_misspelt_no_does_not_count_as_yes() {
    let insecure =
        |said: &str| faceid().env("FACEID_INSECURE", said).args(["serve", "--print-config"]).output().unwrap();
    let misspelt = insecure("fasle");
    assert_eq!(misspelt.status.code(), Some(2), "{}", said(&misspelt));
    assert!(said(&misspelt).contains("fasle") && said(&misspelt).contains("--insecure"), "{}", said(&misspelt));
    for (word, open) in [("no", false), ("0", false), ("yes", true), ("1", true)] {
        assert!(said(&insecure(word)).contains(&format!("insecure = {open}")), "{word}: {}", said(&insecure(word)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_port_that_is_configured() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let port = address.rsplit(':').next().unwrap();
    let file = data.path().join("faceid.toml");
    std::fs::write(&file, format!("bind = \"0.0.0.0:{port}\"\ninsecure = true\n")).unwrap();
    let everywhere = format!("0.0.0.0:{port}");
    let with = |name: &str, value: &str| {
        let output = soon(faceid().arg("health").env(name, value));
        assert!(output.status.success() && said(&output).contains("\"ready\":true"), "{name}: {}", said(&output));
    };
    with("FACEID_BIND", address);
    with("FACEID_BIND", &everywhere);
    with("FACEID_CONFIG", file.to_str().unwrap());
    with("FACEID_SERVER", &server.url);
    // What is said of the server itself wins.
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let output = soon(faceid().args(["health", "--server", &nobody]).env("FACEID_BIND", address));
    assert!(!output.status.success() && said(&output).contains(&nobody), "{}", said(&output));
}

/// A server that lets everyone in, answers nobody and reads nothing.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn commands_do_not_wait_for_ever() {
    let (_listener, url) = silent();
    let folder = data_dir();
    let photo = folder.path().join("photo.jpg");
    std::fs::write(&photo, "no photo").unwrap();
    // More than the buffers of a connection hold.
    let archive = folder.path().join("photos.zip");
    std::fs::File::create(&archive).unwrap().set_len(64 << 20).unwrap();
    let [photo, archive] = [photo, archive].map(|path| path.to_str().unwrap().to_owned());
    let commands: [(&[&str], &str); 4] = [
        (&["health"], "no answer within 4 s"),
        (&["identify", &photo, "--server-timeout", "1"], "taken more of the file"),
        (&["models", "list", "--server-timeout", "1"], "no answer in time"),
        (&["datasets", "upload", &archive, "--gallery", "people", "--server-timeout", "1"], "taken more of the file"),
    ];
    for (arguments, reason) in commands {
        let output = soon(faceid().args(arguments).args(["--server", &url]));
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let expected = format!("cannot reach {url}: ");
        assert!(said(&output).contains(&expected) && said(&output).contains(reason), "{}", said(&output));
    }
}

#[test]
fn a_file_may_take_its_time_as_long_as_it_gets_on() {
    let (listener, url) = silent();
    let folder = data_dir();
    let archive = folder.path().join("photos.zip");
    std::fs::File::create(&archive).unwrap().set_len(64 << 20).unwrap();
    // Takes a bit now and then, for longer than the command's patience. What the buffers of a connection hold is taken well within it.
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut taken = vec![0; 4 << 20];
        for _ in 0..16 {
            stream.read_exact(&mut taken).unwrap();
            std::thread::sleep(Duration::from_millis(600));
        }
        let mut stream = &stream;
        let answer = "{\"status\":409,\"title\":\"Conflict\",\"code\":\"duplicate_gallery\",\"detail\":\"taken all\"}";
        let head = "HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\nconnection: close\r\n";
        std::io::Write::write_all(
            &mut stream,
            format!("{head}content-length: {}\r\n\r\n{answer}", answer.len()).as_bytes(),
        )
        .unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let arguments = ["datasets", "upload", archive.to_str().unwrap(), "--gallery", "people", "--server-timeout", "6"];
    let output = soon(faceid().args(arguments).args(["--server", &url]));
    server.join().unwrap();
    assert!(said(&output).contains("taken all"), "{}", said(&output));
}

#[test]
fn an_aws_profile_is_told_apart_from_credentials() {
    let serve = |set: &[(&str, &str)]| {
        let mut command = faceid();
        command.args(["serve", "--print-config", "--model-store", "s3://faces/models", "--data-dir", "data"]);
        command.env("HOME", "/nowhere").envs(set.iter().copied()).output().unwrap()
    };
    let refused = serve(&[("AWS_PROFILE", "production")]);
    assert_eq!(refused.status.code(), Some(1));
    for word in ["AWS_PROFILE=production is not read", "AWS_ACCESS_KEY_ID", "s3://faces/models"] {
        assert!(said(&refused).contains(word), "{}", said(&refused));
    }
    let home = data_dir();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/config"), "[default]\nregion = eu-central-1\n").unwrap();
    let by_file = serve(&[("HOME", home.path().to_str().unwrap())]);
    assert!(!by_file.status.success() && said(&by_file).contains(".aws/config is not read"), "{}", said(&by_file));
    for set in [&[("AWS_PROFILE", "production"), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "x")][..], &[]]
    {
        let taken = serve(set);
        assert!(taken.status.success(), "{}", said(&taken));
    }
}

/// A program of this name that prints `text`, first on the path of what is run with the returned command.
fn with_program(folder: &TempDir, name: &str, text: &str) -> Command {
    let program = folder.path().join(name);
    std::fs::write(&program, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("python3");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup.py"));
    command.env("PATH", path).env_remove("CXX").env_remove("LIBTORCH").env_remove("FACEID_WEIGHTS_DIR");
    command
}

#[test]
fn compilers_that_are_too_old_are_told_before_anything_is_fetched() {
    for (program, text, told) in [
        ("c++", "#define __GNUC__ 8", "c++ is GCC 8, too old"),
        ("c++", "#define __clang_major__ 7\n#define __GNUC__ 4", "c++ is Clang 7, too old"),
        ("rustc", "rustc 1.80.1 (3f5fd8dd4 2024-08-06)", "rustc is 1.80.1, too old"),
    ] {
        let folder = data_dir();
        let home = folder.path().join("home");
        let output = with_program(&folder, program, text).env("FACEID_HOME", &home).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(told), "{}", said(&output));
        assert!(!home.exists(), "something was fetched");
    }
}
