//! Models and uploads are in a bucket of an S3 server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use faceid::jobs::JobState;
use faceid::service::answers::Job;
use futures_util::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use reqwest::{Body, Method};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::datasets;
use crate::support::process::{Server, data_dir, faceid, free_port};
use crate::support::{TestApp, eventually, photos};

const BUCKET: &str = "faces";
const SECRET: &str = "a secret that no log shows";

/// A server of files by the protocol of S3, with one bucket.
struct S3 {
    url: String,
    folder: TempDir,
}

impl S3 {
    async fn start() -> Self {
        let folder = data_dir();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("tester", SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    _ = http.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        Self { url, folder }
    }

    /// faceid, told of this server.
    fn faceid(&self, secret: &str) -> Command {
        let mut command = faceid();
        command.env("AWS_ENDPOINT_URL", &self.url).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "eu-central-1");
        command.env("AWS_ACCESS_KEY_ID", "tester").env("AWS_SECRET_ACCESS_KEY", secret);
        command
    }

    /// Files of uploads that are under way.
    fn unfinished(&self) -> usize {
        let files = photos::files(self.folder.path());
        files.iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".upload")).count()
    }

    /// The objects of a folder of the bucket.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.folder.path().join(BUCKET).join(folder);
        let files = if folder.is_dir() { photos::files(&folder) } else { Vec::new() };
        files.into_iter().filter(|path| path.is_file()).collect()
    }
}

async fn serve(s3: &S3, data: &Path) -> Server {
    Server::start_from(s3.faceid(SECRET), Stdio::inherit(), data, &["--model-store", "s3://faces/of/models"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn models_and_uploads_are_kept_in_a_bucket() {
    let s3 = Arc::new(S3::start().await);
    let data = data_dir();
    let mut server = serve(&s3, data.path()).await;
    assert_eq!(s3.objects("of/models").len(), 1);
    let app = TestApp::at(server.url.clone()).await;
    // In several parts.
    let bgr = app.import_bgr().await;
    assert_eq!(s3.objects("of/models").len(), 2);
    assert_eq!(app.promote("bgr").await.state, JobState::Succeeded);

    // What answers comes from the bucket.
    server.terminate();
    assert!(server.ended().await.success());
    assert!(!data.path().join("models").exists());
    let server = serve(&s3, data.path()).await;
    let app = TestApp::at(server.url.clone()).await;
    assert_eq!(app.answering().await, "bgr");

    // Whoever leaves in the middle of an upload leaves nothing there either.
    let chunks = stream::iter((0..20).map(|_| Ok(vec![b' '; 1 << 20])));
    let there = Arc::clone(&s3);
    let cut = stream::once(async move {
        while there.unfinished() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(std::io::Error::other("gone"))
    });
    let upload = app.request(Method::POST, "/admin/datasets?gallery=cut").header("content-type", "application/zip");
    assert!(upload.body(Body::wrap_stream(chunks.chain(cut))).send().await.is_err());
    eventually(Duration::from_secs(60), "it is forgotten", async || (s3.unfinished() == 0).then_some(())).await;

    let archive = datasets::zipped(&datasets::people(0..3, 3));
    let job: Job = app.upload(archive).await.json();
    assert_eq!(app.finished(job).await.state, JobState::Succeeded);
    assert_eq!(app.people().await.len(), 3);
    let gone = async || s3.objects("of/models/uploads").is_empty().then_some(());
    eventually(Duration::from_secs(60), "the archive is deleted", gone).await;

    assert_eq!(app.roll_back().await.state, JobState::Succeeded);
    app.retire("bgr", true).await;
    let file = s3.folder.path().join(BUCKET).join("of/models").join(&bgr.sha256);
    eventually(Duration::from_secs(60), "the file is deleted", async || (!file.exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_named_at_the_start() {
    let s3 = S3::start().await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let cases = [
        ("s3://faces", s3.url.as_str(), "another secret", "SignatureDoesNotMatch"),
        ("s3://faces", nobody.as_str(), SECRET, "error sending request"),
        ("ftp://faces", s3.url.as_str(), SECRET, "ftp:// is no model store"),
    ];
    for (url, endpoint, secret, reason) in cases {
        let data = data_dir();
        let mut command = s3.faceid(secret);
        command.env("AWS_ENDPOINT_URL", endpoint);
        command.args(["serve", "--bind", "127.0.0.1:0", "--model-store", url, "--data-dir"]).arg(data.path());
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(reason), "{url}: {said}");
        assert!(!said.contains(secret), "{said}");
    }
}
