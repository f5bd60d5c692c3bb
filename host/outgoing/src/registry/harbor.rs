//! Harbor's own listings, in both versions of its API.

use serde::Deserialize;
use url::Url;

use super::{PAGE, Session};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Project {
    project_id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
}

#[derive(Deserialize)]
struct Artifact {
    #[serde(default)]
    tags: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

/// No token of the registry is for Harbor's own API.
const NO_SCOPE: &str = "";

impl Session {
    /// The repositories of the configured projects; without any, of all that can be seen.
    pub(super) async fn harbor_repositories(&self) -> Result<Vec<String>> {
        let first = self.at(&format!("api/projects?page=1&page_size={PAGE}"))?;
        let projects: Vec<Project> = self.harbor_pages(first).await?;
        let wanted = &self.registry.projects;
        let mut names = Vec::new();
        for project in projects.into_iter().filter(|p| wanted.is_empty() || wanted.contains(&p.name)) {
            let first = format!("api/repositories?project_id={}&page=1&page_size={PAGE}", project.project_id);
            let found: Vec<Repository> = self.harbor_pages(self.at(&first)?).await?;
            names.extend(found.into_iter().map(|r| r.name));
        }
        Ok(names)
    }

    /// The repositories of the configured projects.
    pub(super) async fn harbor2_repositories(&self) -> Result<Vec<String>> {
        if self.registry.projects.is_empty() {
            return Err(Error::Unsupported("Harbor is listed by project: its registry needs `project`".to_owned()));
        }
        let mut names = Vec::new();
        for project in &self.registry.projects {
            let mut first = self.at("api/v2.0/projects/")?;
            if let Ok(mut path) = first.path_segments_mut() {
                path.pop_if_empty().extend([project, "repositories"]);
            }
            first.query_pairs_mut().append_pair("page_size", &PAGE.to_string());
            let found: Vec<Repository> = self.harbor_pages(first).await?;
            names.extend(found.into_iter().map(|r| r.name));
        }
        Ok(names)
    }

    /// The tags of a repository's artifacts.
    pub(super) async fn harbor2_tags(&self, repository: &str) -> Result<Vec<String>> {
        let (project, name) = repository.split_once('/').unwrap_or(("library", repository));
        // Slashes in the name are encoded twice.
        let name = name.replace('/', "%252F");
        let first = self
            .at(&format!("api/v2.0/projects/{project}/repositories/{name}/artifacts?page_size={PAGE}&with_tag=true"))?;
        let artifacts: Vec<Artifact> = self.harbor_pages(first).await?;
        Ok(artifacts.into_iter().flat_map(|a| a.tags.unwrap_or_default()).map(|tag| tag.name).collect())
    }

    async fn harbor_pages<T: serde::de::DeserializeOwned>(&self, first: Url) -> Result<Vec<T>> {
        self.pages(first, NO_SCOPE, |page: Option<Vec<T>>| page.unwrap_or_default()).await
    }
}
