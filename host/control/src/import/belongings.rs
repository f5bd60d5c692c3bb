//! Templates of sessions and clusters.

use quarterdeck_model::template;
use quarterdeck_store::templates::{self, NewTemplate, TemplateKind};
use serde_json::Value as Json;

use super::read::{self, instant, required};
use super::{Importer, Outcome, Taken, refuse};

impl Importer<'_> {
    pub(super) async fn template(&mut self, row: Json) -> Taken {
        let r: read::Template = read::row(row)?;
        let id = required(r.id, "id")?;
        if r.is_active != Some(true) {
            return refuse("it is deleted");
        }
        let kind = required(r.kind, "type")?;
        let document = required(r.template, "template")?;
        let (kind, document) = match kind.to_lowercase().as_str() {
            "task" => (TemplateKind::Task, template::task(&document)),
            "cluster" => (TemplateKind::Cluster, template::cluster(&document)),
            other => return refuse(format!("type: {other} is none")),
        };
        let document = document.map_err(|e| format!("template: {e}"))?;
        let name = r.name.unwrap_or_else(|| template::name(&document).to_owned());
        if let Some(known) = templates::get(&mut self.tx, kind, id).await? {
            if !self.differs(known.name != name || known.document != document) {
                return Ok(Outcome::Existing);
            }
            templates::update(&mut self.tx, id, &name, &document).await?;
            return Ok(Outcome::Updated);
        }
        let user = required(r.user_uuid, "user_uuid")?;
        let Some((user, _)) = self.users.get(&user).cloned() else { return refuse("its user isn't taken over") };
        let group = required(r.group_id, "group_id")?;
        let Some((project, _)) = self.projects.get(&group).cloned() else {
            return refuse("its project isn't taken over");
        };
        let new = NewTemplate {
            id,
            kind,
            name,
            created_at: instant(r.created_at.as_deref()).unwrap_or(self.now),
            domain_name: required(r.domain_name, "domain_name")?,
            project,
            user,
            document,
        };
        templates::insert(&mut self.tx, &new).await?;
        Ok(Outcome::Added)
    }
}
