//! Profiles in the files of Amazon's own tools (`~/.aws/credentials`, `~/.aws/config`), which `object_store` does not read. Pure: the program
//! hands over the text.
//!
//! Understood are keys, session token, region, endpoint and a web identity; what needs another program or a browser is named in the error.

use std::collections::BTreeMap;

/// The profile that counts when none is named.
const DEFAULT: &str = "default";

/// What a profile may set, by its name there and by the name that the environment has for it.
const SETTINGS: [(&str, &str); 8] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ("role_arn", "AWS_ROLE_ARN"),
    ("role_session_name", "AWS_ROLE_SESSION_NAME"),
];

/// Ways to come by keys that are not understood here.
const FOREIGN: [&str; 5] = ["sso_session", "sso_start_url", "credential_process", "source_profile", "credential_source"];

/// Texts of the two files; empty where there is none.
#[derive(Clone, Default)]
pub struct AwsFiles {
    /// `~/.aws/credentials`: sections are called as their profile.
    pub credentials: String,
    /// `~/.aws/config`: sections are called `profile NAME`, but for the default one.
    pub config: String,
}

impl std::fmt::Debug for AwsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AwsFiles")
    }
}

/// Why a profile is of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    /// Nobody wrote it down.
    #[error("there is no AWS profile '{name}'; there are: {known}")]
    Missing {
        /// The profile.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Its keys come from elsewhere.
    #[error(
        "the AWS profile '{name}' uses {way}, which is not supported: put keys into the environment, for instance with 'aws configure export-credentials'"
    )]
    Foreign {
        /// The profile.
        name: String,
        /// What it uses.
        way: &'static str,
    },
}

/// The settings of a profile, under the names of the environment. Without `name` the default profile counts, and may be missing.
///
/// # Errors
/// [`ProfileError`], which never holds a key.
pub fn settings(files: &AwsFiles, name: Option<&str>) -> Result<BTreeMap<String, String>, ProfileError> {
    let (credentials, config) = (sections(&files.credentials), sections(&files.config));
    let wanted = name.unwrap_or(DEFAULT);
    // In both files, what stands beside the keys counts more.
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    let mut is_there = false;
    for section in config
        .iter()
        .filter(|section| profile_of(section.name) == Some(wanted))
        .chain(credentials.iter().filter(|section| section.name == wanted))
    {
        is_there = true;
        found.extend(section.values.iter().copied());
    }
    let name_of = || wanted.to_owned();
    if !is_there && name.is_some() {
        let known = config.iter().filter_map(|section| profile_of(section.name)).chain(credentials.iter().map(|section| section.name));
        let known = known.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
        return Err(ProfileError::Missing { name: name_of(), known });
    }
    let has_keys = found.contains_key("aws_access_key_id") || found.contains_key("web_identity_token_file");
    if let Some(way) = FOREIGN.into_iter().find(|way| found.contains_key(way)).filter(|_| !has_keys) {
        return Err(ProfileError::Foreign { name: name_of(), way });
    }
    Ok(SETTINGS.iter().filter_map(|(key, variable)| Some(((*variable).to_owned(), (*found.get(key)?).to_owned()))).collect())
}

struct Section<'a> {
    name: &'a str,
    values: Vec<(&'a str, &'a str)>,
}

/// Sections with their values in order. Indented lines belong to a nested setting (`s3 =`), of which there is none that we need.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(name) = content.strip_prefix('[').and_then(|rest| Some(rest.split_once(']')?.0)) {
            sections.push(Section { name: name.trim(), values: Vec::new() });
        } else if let (Some(section), Some((key, value))) = (sections.last_mut(), content.split_once('=')) {
            // A comment after a value begins with a blank: keys hold `#` and `;` themselves.
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            section.values.push((key.trim(), value.trim()));
        }
    }
    sections
}

/// Which profile a section of the config file is about; `None` if it is about something else (`sso-session`, `services`).
fn profile_of(section: &str) -> Option<&str> {
    if section == DEFAULT {
        return Some(DEFAULT);
    }
    let name = section.strip_prefix("profile")?.strip_prefix([' ', '\t'])?.trim();
    Some(name.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> AwsFiles {
        let credentials = "# keys\n[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key=a/b+c=d#e ; mine\n\n\
                           [nas]\r\naws_access_key_id = AKNAS\r\naws_secret_access_key = s\r\naws_session_token = t==\r\nregion = here\r\n";
        let config = "[default]\nregion = eu-central-1\ns3 =\n  endpoint_url = http://nested\noutput = json\n\
                      [profile nas]\nregion = garage\nendpoint_url = http://nas:3900\n\
                      [profile \"two words\"]\nrole_arn = arn:aws:iam::1:role/x\nweb_identity_token_file = /token\n\
                      [profile single]\nsso_session = work\n[sso-session work]\nregion = us-east-1\nloose line\n";
        AwsFiles { credentials: credentials.into(), config: config.into() }
    }

    fn set(name: Option<&str>) -> Vec<(String, String)> {
        settings(&files(), name).unwrap().into_iter().collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn profiles_of_both_files_are_put_together() {
        let default = [("AWS_ACCESS_KEY_ID", "AKDEFAULT"), ("AWS_REGION", "eu-central-1"), ("AWS_SECRET_ACCESS_KEY", "a/b+c=d#e")];
        assert_eq!(set(None), pairs(&default));
        assert_eq!(set(Some("default")), pairs(&default));
        assert_eq!(
            set(Some("nas")),
            pairs(&[
                ("AWS_ACCESS_KEY_ID", "AKNAS"),
                ("AWS_ENDPOINT_URL", "http://nas:3900"),
                ("AWS_REGION", "here"),
                ("AWS_SECRET_ACCESS_KEY", "s"),
                ("AWS_SESSION_TOKEN", "t==")
            ])
        );
        assert_eq!(set(Some("two words")), pairs(&[("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")]));
        assert_eq!(settings(&AwsFiles::default(), None), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_cannot_be_used_is_named_without_keys() {
        let missing = settings(&files(), Some("nsa")).unwrap_err().to_string();
        assert!(missing.contains("'nsa'") && missing.contains("default, nas, single, two words"), "{missing}");
        let foreign = settings(&files(), Some("single")).unwrap_err().to_string();
        assert!(foreign.contains("sso_session") && foreign.contains("export-credentials"), "{foreign}");
        assert_eq!(format!("{:?}", files()), "AwsFiles");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(credentials in ".*", config in "(\\[[a-z \"]*\\]|[a-z_]*=.*|\\n)*", name in "[a-z]{0,4}") {
            let _ = settings(&AwsFiles { credentials, config }, Some(&name));
        }
    }
}
