//! Tests of the configuration as a whole.

use std::path::Path;

use super::*;

fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

#[test]
fn keys_come_in_twos_and_only_a_server_on_loopback_may_be_open() {
    let open = |s: &mut Settings| s.bind = Some("0.0.0.0:80".parse().unwrap());
    let may_be_open = |settings: Settings| settings.into_config().unwrap().access.may_be_open;
    assert!(may_be_open(Settings::default()));
    assert!(!may_be_open(settings(open)));
    let insecure = settings(|s| {
        open(s);
        s.insecure = Some(true);
    });
    assert!(may_be_open(insecure));
    let keyed = settings(|s| {
        s.client_key = Some("client-key-0123456".to_owned().into());
        s.admin_key = Some("admin-key-01234567".to_owned().into());
    });
    assert!(keyed.clone().into_config().unwrap().access.keys.is_some());
    let lone = Settings { admin_key: None, ..keyed.clone() };
    assert!(matches!(lone.into_config(), Err(ConfigError::LoneKey)));
    let same = Settings { admin_key: keyed.client_key.clone(), ..keyed };
    assert!(matches!(same.into_config(), Err(ConfigError::WeakKeys)));
    let secret = |length: usize| settings(|s| s.key_secret = Some("x".repeat(length).into())).into_config();
    assert!(secret(32).unwrap().access.key_secret.is_some());
    assert!(matches!(secret(31), Err(ConfigError::WeakKeySecret)));
}

#[test]
fn a_file_fills_in_what_flags_leave_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faceid.toml");
    // With a byte order mark, as editors of Windows write it.
    std::fs::write(&path, "\u{feff}bind = \"127.0.0.1:9000\"\nthreads = 3\nlog_format = \"json\"\n").unwrap();
    let args = ConfigArgs { config: Some(path), settings: settings(|s| s.threads = Some(1)) };
    let config = args.resolve().unwrap().into_config().unwrap();
    assert_eq!(config.http.bind.port(), 9000);
    assert_eq!(config.engine.threads, 1);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn without_a_home_folder_everything_is_in_the_data_directory() {
    let data_dir = Path::new("/data");
    let home = || Some(PathBuf::from("/home/ada"));
    assert_eq!(defaults::setup_folder(Some("/opt/faceid".into()), home(), data_dir), Path::new("/opt/faceid"));
    assert_eq!(defaults::setup_folder(Some("".into()), home(), data_dir), Path::new("/home/ada/.cache/faceid"));
    assert_eq!(defaults::setup_folder(None, None, data_dir), data_dir);
}

#[test]
fn a_server_is_reached_where_it_listens() {
    for (bind, url) in [
        (None, "http://127.0.0.1:8080"),
        (Some("0.0.0.0:81"), "http://127.0.0.1:81"),
        (Some("[::]:82"), "http://[::1]:82"),
        (Some("192.0.2.7:83"), "http://192.0.2.7:83"),
    ] {
        let settings = settings(|s| s.bind = bind.map(|bind| bind.parse().unwrap()));
        assert_eq!(ConfigArgs { config: None, settings }.local_url().unwrap(), url);
    }
    let secure = settings(|s| s.tls_cert = Some("cert.pem".into()));
    assert_eq!(ConfigArgs { config: None, settings: secure }.local_url().unwrap(), "https://127.0.0.1:8080");
    let settings = settings(|s| s.base_path = Some("/faces".parse().unwrap()));
    assert_eq!(ConfigArgs { config: None, settings }.local_url().unwrap(), "http://127.0.0.1:8080/faces");
}

#[test]
fn an_unknown_setting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faceid.toml");
    std::fs::write(&path, "binf = \"127.0.0.1:9000\"\n").unwrap();
    let args = ConfigArgs { config: Some(path), settings: Settings::default() };
    assert!(args.resolve().unwrap_err().to_string().contains("binf"));
}

#[test]
fn secrets_do_not_show() {
    let shown = settings(|s| s.client_key = Some("client-key-0123456".to_owned().into()));
    assert!(!toml::to_string(&shown).unwrap().contains("0123456"));
    assert!(!format!("{shown:?}").contains("0123456"));
}

#[test]
fn addresses_are_limited_where_there_are_keys_to_guess_and_callers_if_it_is_said() {
    let of = |settings: Settings| settings.into_config().map(|config| (config.access.limits, config.http.addresses));
    let (callers, addresses) = of(Settings::default()).unwrap();
    let rate = addresses.requests.map(|rate| (rate.per_second, rate.burst));
    assert!(callers.says_nothing());
    assert_eq!((rate, addresses.at_open_servers, addresses.concurrent), (Some((20.0, 100)), false, None));
    let (_, none) = of(settings(|s| s.address_requests_per_second = Some(0.0))).unwrap();
    assert_eq!(none.requests, None);
    let said = settings(|s| (s.address_requests_per_second, s.requests_per_second) = (Some(5.0), Some(2.0)));
    let (callers, addresses) = of(said).unwrap();
    assert!(addresses.at_open_servers && callers.allowed().requests.is_some_and(|rate| rate.burst == 20));
    let wrong = of(settings(|s| s.address_request_burst = Some(0))).unwrap_err().to_string();
    assert!(wrong.contains("address_request_burst = 0") && wrong.contains("1 to 1000000"), "{wrong}");
}

#[test]
fn values_out_of_range_are_refused() {
    for bad in [
        settings(|s| s.threads = Some(0)),
        settings(|s| s.threshold = Some(1.5)),
        settings(|s| s.requests_per_second = Some(-1.0)),
        settings(|s| s.megapixel_burst = Some(0)),
        settings(|s| s.decode_budget = Some(1)),
        settings(|s| s.min_detection_score = Some(f32::NAN)),
        settings(|s| s.train_device = Some(DeviceChoice::Auto)),
    ] {
        assert!(bad.into_config().is_err());
    }
}

#[test]
fn a_body_has_room_for_the_photos_that_are_allowed() {
    let sized = |body: usize, image: usize| {
        let settings = settings(|s| (s.max_body_bytes, s.max_image_bytes) = (Some(body), Some(image)));
        settings.into_config().map(|config| config.warnings())
    };
    assert!(Settings::default().into_config().unwrap().warnings().is_empty());
    // As it is, and twice in base64 with a few words around.
    assert!(sized(2_700_000, 1_000_000).unwrap().is_empty());
    let warnings = sized(2_600_000, 1_000_000).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("max_body_bytes = 2600000"), "{warnings:?}");
    assert!(sized(1_010_000, 1_000_000).is_ok());
    let refused = sized(1_000_000, 1_000_000).unwrap_err().to_string();
    assert!(refused.contains("it takes 1004096 at least, and 2670768 for two photos"), "{refused}");
}

#[test]
fn tls_takes_a_certificate_and_its_key() {
    let tls = |said: &[&str], auth: Option<ClientAuth>| {
        let file = |name: &str| said.contains(&name).then(|| PathBuf::from(name));
        let settings = settings(|s| {
            (s.tls_cert, s.tls_key, s.tls_client_ca) = (file("cert"), file("key"), file("ca"));
            s.tls_client_auth = auth;
        });
        settings.into_config().map(|config| config.http.tls.map(|tls| tls.client_auth))
    };
    assert_eq!(tls(&[], None).unwrap(), None);
    assert_eq!(tls(&["cert", "key"], None).unwrap(), Some(ClientAuth::Off));
    // Whoever names an authority means it.
    assert_eq!(tls(&["cert", "key", "ca"], None).unwrap(), Some(ClientAuth::Required));
    for auth in [ClientAuth::Off, ClientAuth::Optional] {
        assert_eq!(tls(&["cert", "key", "ca"], Some(auth)).unwrap(), Some(auth));
    }
    for lone in ["cert", "key"] {
        assert!(matches!(tls(&[lone], None), Err(ConfigError::LoneTlsFile)));
    }
    assert!(matches!(tls(&["ca"], None), Err(ConfigError::NoTls { .. })));
    assert!(matches!(tls(&["cert", "key"], Some(ClientAuth::Required)), Err(ConfigError::NoClientCa { .. })));
}
