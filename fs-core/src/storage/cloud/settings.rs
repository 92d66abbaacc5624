//! Who counts where a service is told of settings by several people: profile, environment, address. Pure.

use std::collections::BTreeMap;

use super::super::RemoteOptions;
use super::super::address::CloudService;
use super::super::aws_profile::{self, ProfileError};

/// Variables with which somebody proves who he is.
const CREDENTIALS: [&str; 5] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"];

/// Settings by the names that the library knows, in lower case; of two with one name the later counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings(Vec<(String, String)>);

impl Settings {
    /// Puts together what variables, profiles and the address say about a service.
    ///
    /// # Errors
    /// If a profile that was named is missing or of no use.
    pub(super) fn of(service: CloudService, in_address: &BTreeMap<String, String>, options: &RemoteOptions) -> Result<Self, ProfileError> {
        let (family, prefix) = match service {
            CloudService::S3 => ("aws_", "aws_"),
            CloudService::Azure => ("azure_", "azure_storage_"),
            CloudService::Google => ("google_", "google_"),
        };
        let variables = match service {
            CloudService::S3 => with_profile(in_address.get("profile"), options)?,
            CloudService::Azure | CloudService::Google => pairs(&options.variables).collect(),
        };
        let variables = variables.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value));
        let in_address = in_address.iter().map(|(key, value)| (format!("{prefix}{}", key.to_ascii_lowercase()), value.clone()));
        let all = variables.filter(|(key, _)| key.starts_with(family)).chain(in_address);
        Ok(Self(all.map(|(key, value)| (one_name(key), value)).collect()))
    }

    /// The server to talk to, if it is not the maker's own.
    pub(super) fn endpoint(&self) -> Option<&str> {
        let is_endpoint = |key: &str| matches!(key, "aws_endpoint" | "azure_storage_endpoint" | "google_base_url");
        self.0.iter().rev().find(|(key, _)| is_endpoint(key)).map(|(_, value)| value.as_str())
    }

    /// Hands everything over that `K` can name.
    pub(super) fn apply<B, K: std::str::FromStr>(&self, builder: B, set: impl Fn(B, K, String) -> B) -> B {
        let known = self.0.iter().filter_map(|(key, value)| Some((key.parse().ok()?, value.clone())));
        known.fold(builder, |builder, (key, value)| set(builder, key, value))
    }
}

fn pairs(variables: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> + '_ {
    variables.iter().map(|(key, value)| (key.clone(), value.clone()))
}

/// One name for the endpoint, so that the later counts and not the longer word.
fn one_name(key: String) -> String {
    match &*key {
        "aws_endpoint_url" | "aws_endpoint_url_s3" => "aws_endpoint".to_owned(),
        "azure_endpoint" => "azure_storage_endpoint".to_owned(),
        "google_endpoint" => "google_base_url".to_owned(),
        _ => key,
    }
}

/// Variables over the profile. Keys of two people are never mixed: those of a profile named in the address count alone, otherwise those of
/// the environment do, as with Amazon's tools.
fn with_profile(in_address: Option<&String>, options: &RemoteOptions) -> Result<Vec<(String, String)>, ProfileError> {
    let name = in_address.or_else(|| options.variables.get("AWS_PROFILE"));
    let is_credential = |(key, _): &(String, String)| CREDENTIALS.contains(&key.as_str());
    let has_keys = pairs(&options.variables).any(|pair| is_credential(&pair));
    let profile = match aws_profile::settings(&options.aws, name.map(String::as_str)) {
        // What is wrong with a profile that nobody named in the address does not matter to whoever has keys.
        Err(_) if has_keys && in_address.is_none() => BTreeMap::new(),
        profile => profile?,
    };
    let (profile, variables) = (pairs(&profile), pairs(&options.variables));
    Ok(match in_address {
        Some(_) => variables.filter(|pair| !is_credential(pair)).chain(profile).collect(),
        None => profile.filter(|pair| !has_keys || !is_credential(pair)).chain(variables).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// What the library is told at last.
    fn told(service: CloudService, address: &[(&str, &str)], variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let credentials =
            "[default]\naws_access_key_id = AKD\naws_secret_access_key = d\n[nas]\naws_access_key_id = AKN\naws_secret_access_key = n\n";
        let config = "[default]\nregion = eu\n[profile nas]\nendpoint_url = http://nas\n";
        let aws = aws_profile::AwsFiles { credentials: credentials.into(), config: config.into() };
        let options = RemoteOptions { variables: map(variables), aws, ..RemoteOptions::default() };
        Settings::of(service, &map(address), &options).unwrap().0.into_iter().collect()
    }

    #[test]
    fn the_address_counts_more_than_variables_and_they_more_than_the_profile() {
        let keys = |told: &BTreeMap<String, String>| (told.get("aws_access_key_id").cloned(), told.get("aws_secret_access_key").cloned());
        let some = |id: &str, key: &str| (Some(id.to_owned()), Some(key.to_owned()));
        let own = [("AWS_ACCESS_KEY_ID", "AKE"), ("AWS_SECRET_ACCESS_KEY", "e")];

        let plain = told(CloudService::S3, &[], &[]);
        assert_eq!((keys(&plain), plain["aws_region"].as_str()), (some("AKD", "d"), "eu"));
        let environment = told(CloudService::S3, &[("region", "us")], &own);
        assert_eq!((keys(&environment), environment["aws_region"].as_str()), (some("AKE", "e"), "us"));
        let named = told(CloudService::S3, &[("profile", "nas")], &own);
        assert_eq!((keys(&named), named["aws_endpoint"].as_str()), (some("AKN", "n"), "http://nas"));
        let by_variable = told(CloudService::S3, &[], &[("AWS_PROFILE", "nas"), ("AWS_ENDPOINT_URL_S3", "http://e")]);
        assert_eq!((keys(&by_variable), by_variable["aws_endpoint"].as_str()), (some("AKN", "n"), "http://e"));
        // A role alone is somebody too: the default profile's keys must not take its place.
        let role = told(CloudService::S3, &[], &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")]);
        assert_eq!((keys(&role), role["aws_web_identity_token_file"].as_str()), ((None, None), "/t"));
    }

    #[test]
    fn services_hear_only_of_themselves() {
        let variables = [("AZURE_STORAGE_ACCOUNT_KEY", "a"), ("GOOGLE_SERVICE_ACCOUNT", "/g"), ("AWS_REGION", "r")];
        assert_eq!(
            told(CloudService::Google, &[("endpoint", "http://g")], &variables),
            map(&[("google_base_url", "http://g"), ("google_service_account", "/g")])
        );
        assert_eq!(
            told(CloudService::Azure, &[("endpoint", "http://a"), ("account_name", "n")], &[("AZURE_ENDPOINT", "http://e"), variables[0]]),
            map(&[("azure_storage_account_key", "a"), ("azure_storage_account_name", "n"), ("azure_storage_endpoint", "http://a")])
        );
    }

    #[test]
    fn a_missing_profile_matters_to_who_has_no_keys() {
        let of = |variables: &[(&str, &str)]| {
            let options = RemoteOptions { variables: map(variables), ..RemoteOptions::default() };
            Settings::of(CloudService::S3, &BTreeMap::new(), &options)
        };
        assert!(of(&[("AWS_PROFILE", "gone")]).is_err());
        assert!(of(&[("AWS_PROFILE", "gone"), ("AWS_ACCESS_KEY_ID", "x")]).is_ok());
        assert!(of(&[]).is_ok());
    }
}
