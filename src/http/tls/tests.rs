use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

fn pair(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn put(config: &TlsConfig, cert: &str, key: &str) {
    std::fs::write(&config.cert, cert).unwrap();
    std::fs::write(&config.key, key).unwrap();
}

fn config() -> (TempDir, TlsConfig) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = TlsConfig { cert: at("cert"), key: at("key"), client_ca: None, client_auth: ClientAuth::Off };
    (folder, config)
}

async fn refused(config: &TlsConfig) -> String {
    Tls::load(config.clone()).await.err().expect("it is refused").to_string()
}

/// What is in the files now, as a server follows them.
async fn look(tls: &Tls) -> bool {
    let before = tls.current().files.clone();
    tls.replace(Files::read(&tls.0.config).await.unwrap());
    tls.current().files != before
}

#[tokio::test]
async fn a_file_that_is_of_no_use_is_named_with_the_reason() {
    let (_folder, config) = config();
    let (cert, key) = pair(|_| {});
    let (other_cert, other_key) = pair(|_| {});
    let (cert_name, key_name) = (config.cert.display().to_string(), config.key.display().to_string());
    let missing = refused(&config).await;
    assert!(missing.contains("cannot read tls_cert") && missing.contains(&cert_name), "{missing}");
    let broken = cert.replacen("MII", "AII", 1);
    for (cert, key, words) in [
        ("", key.as_str(), ["tls_cert", &cert_name, "no certificate"]),
        (key.as_str(), key.as_str(), ["tls_cert", &cert_name, "no certificate"]),
        (broken.as_str(), key.as_str(), ["tls_cert", &cert_name, "cannot be read"]),
        (cert.as_str(), "", ["tls_key", &key_name, "no private key"]),
        (cert.as_str(), cert.as_str(), ["tls_key", &key_name, "no private key"]),
        (cert.as_str(), other_key.as_str(), [&key_name, &cert_name, "is not the key of the certificate"]),
        (other_cert.as_str(), key.as_str(), [&key_name, &cert_name, "is not the key of the certificate"]),
    ] {
        put(&config, cert, key);
        let refused = refused(&config).await;
        assert!(words.iter().all(|word| refused.contains(word)), "{words:?}: {refused}");
        assert!(!refused.contains("PRIVATE"), "{refused}");
    }
    put(&config, &cert, &key);
    let config = TlsConfig { client_ca: Some(config.key.clone()), client_auth: ClientAuth::Required, ..config };
    let refused = refused(&config).await;
    assert!(refused.contains("tls_client_ca") && refused.contains("no certificate"), "{refused}");
}

#[tokio::test]
async fn only_a_pair_that_is_of_use_takes_the_place_of_another() {
    let (_folder, config) = config();
    let (cert, key) = pair(|params| params.not_after = date_time_ymd(2099, 5, 17));
    put(&config, &cert, &key);
    let tls = Tls::load(config.clone()).await.unwrap();
    assert_eq!(tls.current().expires.to_rfc3339(), "2099-05-17T00:00:00+00:00");
    assert!(!look(&tls).await);
    let (next_cert, next_key) = pair(|_| {});
    // Half of the new pair is there.
    put(&config, &next_cert, &key);
    assert!(!look(&tls).await);
    put(&config, &next_cert, &next_key);
    assert!(look(&tls).await);
    let (old_cert, old_key) = pair(|params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    put(&config, &old_cert, &old_key);
    assert!(!look(&tls).await);
    let (early_cert, early_key) = pair(|params| params.not_before = date_time_ymd(2090, 1, 1));
    put(&config, &early_cert, &early_key);
    assert!(!look(&tls).await);
    put(&config, &old_cert, &old_key);
    // At the start there is nothing better.
    let tls = Tls::load(config.clone()).await.unwrap();
    assert!(Path::new(&config.cert).exists() && tls.current().expires < Utc::now());
    put(&config, &cert, &key);
    assert!(look(&tls).await);
}

#[tokio::test]
async fn an_end_that_is_near_is_news_once_a_day() {
    let (_folder, config) = config();
    let speaks = async |days: i64| {
        let (cert, key) = pair(|params| {
            let end = Utc::now() + TimeDelta::days(days);
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(end.format("%Y").to_string().parse().unwrap(), 1, 1)
                + std::time::Duration::from_secs(86_400 * end.format("%j").to_string().parse::<u64>().unwrap());
        });
        put(&config, &cert, &key);
        let tls = Tls::load(config.clone()).await.unwrap();
        let mut said = None;
        tls.watch_expiry(&mut said);
        let first = said;
        tls.watch_expiry(&mut said);
        assert_eq!(said, first);
        first.is_some()
    };
    assert!(!speaks(20).await);
    assert!(speaks(10).await);
    assert!(speaks(-10).await);
}
