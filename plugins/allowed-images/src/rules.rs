//! Rules about images.

use quarterdeck_sdk::glob;
use serde::Deserialize;

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The image may run.
    Allow,
    /// It may not.
    Deny,
}

/// One rule; a list that is absent fits everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    effect: Effect,
    images: Vec<String>,
    domains: Option<Vec<String>>,
    projects: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    users: Option<Vec<String>>,
    #[serde(default)]
    reason: String,
}

/// Options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    rules: Vec<Rule>,
    otherwise: Option<Effect>,
}

/// Who is to own the session.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Name of the domain.
    pub domain: &'a str,
    /// Name of the project.
    pub project: &'a str,
    /// Role of the user.
    pub role: &'a str,
    /// Address of the user.
    pub email: &'a str,
}

impl Rule {
    fn fits(&self, owner: &Owner<'_>, image: &str) -> bool {
        let any = |patterns: &[String], text: &str| patterns.iter().any(|pattern| glob::matches(pattern, text));
        let absent_or = |patterns: &Option<Vec<String>>, text: &str| patterns.as_deref().is_none_or(|p| any(p, text));
        // A pattern without a slash is about projects of that name in any domain.
        let project = |pattern: &String| match pattern.contains('/') {
            true => glob::matches(pattern, &format!("{}/{}", owner.domain, owner.project)),
            false => glob::matches(pattern, owner.project),
        };
        absent_or(&self.domains, owner.domain)
            && self.projects.as_deref().is_none_or(|patterns| patterns.iter().any(project))
            && absent_or(&self.roles, owner.role)
            && absent_or(&self.users, owner.email)
            && any(&self.images, image)
    }
}

impl Config {
    /// Which rule refuses an image (`rules/0`, `otherwise`), and what it says about that.
    pub fn refusal(&self, owner: &Owner<'_>, image: &str) -> Option<(String, &str)> {
        let decided = self.rules.iter().enumerate().find(|(_, rule)| rule.fits(owner, image));
        match decided {
            Some((_, rule)) if rule.effect == Effect::Allow => None,
            Some((position, rule)) => Some((format!("rules/{position}"), rule.reason.as_str())),
            None if self.otherwise() == Effect::Allow => None,
            None => Some(("otherwise".to_owned(), "")),
        }
    }

    fn otherwise(&self) -> Effect {
        let allows = self.rules.iter().any(|rule| rule.effect == Effect::Allow);
        self.otherwise.unwrap_or(if allows { Effect::Deny } else { Effect::Allow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUDENT: Owner<'_> = Owner { domain: "uni", project: "course-1", role: "user", email: "s@uni.edu" };
    const ADMIN: Owner<'_> = Owner { domain: "uni", project: "ops", role: "superadmin", email: "root@uni.edu" };

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn without_rules_everything_may_run() {
        assert_eq!(Config::default().refusal(&STUDENT, "x/y:1"), None);
        assert_eq!(config(r#"{"otherwise": "deny"}"#).refusal(&STUDENT, "x/y:1").unwrap().0, "otherwise");
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let config = config(
            r#"{"rules": [
                {"effect": "allow", "images": ["*"], "roles": ["*admin"]},
                {"effect": "deny", "images": ["*:20.*", "*-dev"], "reason": "It is no longer maintained."},
                {"effect": "allow", "images": ["cr/python:*"], "projects": ["course-?"]},
                {"effect": "allow", "images": ["cr/julia:*"], "projects": ["uni/lab"]},
                {"effect": "allow", "images": ["cr/r:*"], "users": ["*@uni.edu"], "domains": ["uni"]}
            ]}"#,
        );
        let rule = |owner: &Owner<'_>, image: &str| config.refusal(owner, image).map(|(rule, _)| rule);
        assert_eq!(rule(&STUDENT, "cr/python:3.12"), None);
        assert_eq!(
            config.refusal(&STUDENT, "cr/python:20.09"),
            Some(("rules/1".into(), "It is no longer maintained."))
        );
        assert_eq!(rule(&ADMIN, "cr/python:20.09"), None);
        assert_eq!(rule(&STUDENT, "cr/julia:1"), Some("otherwise".to_owned()));
        assert_eq!(rule(&Owner { project: "lab", ..STUDENT }, "cr/julia:1"), None);
        assert_eq!(
            rule(&Owner { project: "lab", domain: "other", ..STUDENT }, "cr/julia:1"),
            Some("otherwise".to_owned())
        );
        assert_eq!(rule(&STUDENT, "cr/r:4"), None);
        assert_eq!(rule(&Owner { email: "s@else.edu", ..STUDENT }, "cr/r:4"), Some("otherwise".to_owned()));
    }

    #[test]
    fn a_list_of_denials_leaves_the_rest_alone() {
        let config = config(r#"{"rules": [{"effect": "deny", "images": ["bad/*"]}]}"#);
        assert!(config.refusal(&STUDENT, "bad/x:1").is_some());
        assert_eq!(config.refusal(&STUDENT, "good/x:1"), None);
    }
}
