//! The book in `docs/`: the contract's reference is generated from `wit/`, and every link must lead somewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use quarterdeck_tests::root;
use wit_parser::{Function, FunctionKind, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, WorldItem};

const REFERENCE: &str = "docs/src/contract.md";

/// Writes what is generated.
pub(crate) fn generate() -> anyhow::Result<()> {
    Ok(std::fs::write(root().join(REFERENCE), reference()?)?)
}

/// Whether what is generated is as it would be written, every page is in the table of contents, and every link leads
/// somewhere.
pub(crate) fn check() -> anyhow::Result<()> {
    let have = std::fs::read_to_string(root().join(REFERENCE)).unwrap_or_default();
    ensure!(have == reference()?, "{REFERENCE} is not what wit/ says: cargo xtask gen");
    let mut pages = Vec::new();
    markdown(&root().join("docs/src"), &mut pages)?;
    let summary = root().join("docs/src/SUMMARY.md");
    let listed: BTreeSet<PathBuf> =
        links(&std::fs::read_to_string(&summary)?).into_iter().map(|link| root().join("docs/src").join(link)).collect();
    for page in pages.iter().filter(|page| **page != summary) {
        ensure!(listed.contains(page), "{} is not in SUMMARY.md", page.display());
    }
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| root().join(page)));
    markdown(&root().join("examples"), &mut pages)?;
    for page in &pages {
        check_links(page)?;
    }
    Ok(())
}

fn markdown(dir: &Path, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_symlink() || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            markdown(&path, out)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            out.push(path);
        }
    }
    Ok(())
}

fn check_links(page: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| page.display().to_string())?;
    for link in links(&text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = if path.is_empty() { page.to_owned() } else { page.with_file_name("").join(path) };
        if !target.exists() {
            bail!("{}: `{link}` leads nowhere", page.display());
        }
        if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
            let there = anchors(&std::fs::read_to_string(&target)?);
            ensure!(there.contains(anchor), "{}: `{link}`: no such heading there", page.display());
        }
    }
    Ok(())
}

/// The targets of Markdown links, except in code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        // What stands between backticks is code as well.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("_");
        let mut rest = prose.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            if let Some(end) = rest.find(')') {
                found.push(rest[..end].to_owned());
            }
        }
    }
    found
}

/// The anchors of a page's headings, as mdBook and most forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// The reference: worlds, then interfaces with their types and functions, in the order of the contract.
fn reference() -> anyhow::Result<String> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit"))?;
    let package = &resolve.packages[package];
    let mut out = format!(
        "# Contract reference\n\nPackage `{}`. Generated from `wit/policy.wit` by `cargo xtask gen`; what the contract \
         promises and demands as a whole is said at the head of that file.\n\n## Worlds\n\n| world | exports | imports | what for \
         |\n|---|---|---|---|\n",
        package.name
    );
    for world in package.worlds.values().map(|world| &resolve.worlds[*world]) {
        let names = |items: &mut dyn Iterator<Item = &WorldItem>| -> String {
            let names = items.filter_map(|item| match item {
                WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
                _ => None,
            });
            names.map(|name| format!("[{name}](#{name})")).collect::<Vec<_>>().join(", ")
        };
        let (exports, imports) = (names(&mut world.exports.values()), names(&mut world.imports.values()));
        let docs = world.docs.contents.as_deref().unwrap_or_default().trim().replace('\n', " ");
        writeln!(out, "| `{}` | {exports} | {imports} | {docs} |", world.name)?;
    }
    for interface in package.interfaces.values().map(|interface| &resolve.interfaces[*interface]) {
        write_interface(&resolve, interface, &mut out)?;
    }
    Ok(out)
}

fn write_interface(resolve: &Resolve, interface: &Interface, out: &mut String) -> std::fmt::Result {
    let name = interface.name.as_deref().unwrap_or_default();
    write!(out, "\n## {name}\n\n{}", demoted(interface.docs.contents.as_deref().unwrap_or_default()))?;
    for (type_name, id) in &interface.types {
        let definition = &resolve.types[*id];
        // What is only taken from another interface is explained there.
        if matches!(definition.kind, TypeDefKind::Type(_)) {
            continue;
        }
        write_type(resolve, type_name, definition, out)?;
        let methods = interface.functions.values().filter(|function| resource(function) == Some(*id));
        for function in methods {
            write_function(resolve, &format!("{type_name}."), function, out)?;
        }
    }
    for function in interface.functions.values().filter(|function| resource(function).is_none()) {
        write_function(resolve, "", function, out)?;
    }
    Ok(())
}

fn resource(function: &Function) -> Option<wit_parser::TypeId> {
    match function.kind {
        FunctionKind::Method(id) | FunctionKind::Static(id) | FunctionKind::Constructor(id) => Some(id),
        _ => None,
    }
}

fn write_type(resolve: &Resolve, name: &str, definition: &TypeDef, out: &mut String) -> std::fmt::Result {
    write!(
        out,
        "\n### {} `{name}`\n\n{}",
        definition.kind.as_str(),
        demoted(definition.docs.contents.as_deref().unwrap_or_default())
    )?;
    let mut table = |head: &str, rows: Vec<(String, String, Option<String>)>| -> std::fmt::Result {
        write!(out, "\n| {head} | type | |\n|---|---|---|\n")?;
        for (name, of, docs) in rows {
            let of = if of.is_empty() { of } else { format!("`{of}`") };
            writeln!(
                out,
                "| `{name}` | {of} | {} |",
                docs.unwrap_or_default().trim().replace('\n', " ").replace('|', "\\|")
            )?;
        }
        Ok(())
    };
    match &definition.kind {
        TypeDefKind::Record(record) => table(
            "field",
            record.fields.iter().map(|f| (f.name.clone(), shown(resolve, &f.ty), f.docs.contents.clone())).collect(),
        ),
        TypeDefKind::Variant(variant) => table(
            "case",
            variant
                .cases
                .iter()
                .map(|c| {
                    let of = c.ty.as_ref().map(|of| shown(resolve, of)).unwrap_or_default();
                    (c.name.clone(), of, c.docs.contents.clone())
                })
                .collect(),
        ),
        TypeDefKind::Enum(cases) => table(
            "case",
            cases.cases.iter().map(|c| (c.name.clone(), String::new(), c.docs.contents.clone())).collect(),
        ),
        _ => Ok(()),
    }
}

fn write_function(resolve: &Resolve, prefix: &str, function: &Function, out: &mut String) -> std::fmt::Result {
    let name = function.name.rsplit('.').next().unwrap_or_default();
    let params: Vec<String> = function
        .params
        .iter()
        .filter(|param| param.name != "self")
        .map(|param| format!("{}: {}", param.name, shown(resolve, &param.ty)))
        .collect();
    let result = function.result.as_ref().map(|of| format!(" -> {}", shown(resolve, of))).unwrap_or_default();
    write!(
        out,
        "\n### `{prefix}{name}`\n\n```wit\n{name}: func({}){result}\n```\n\n{}",
        params.join(", "),
        demoted(function.docs.contents.as_deref().unwrap_or_default())
    )
}

/// Documentation with its headings below those of the page.
fn demoted(docs: &str) -> String {
    let docs = docs.trim();
    if docs.is_empty() {
        return String::new();
    }
    let lines: Vec<String> =
        docs.lines().map(|line| if line.starts_with("# ") { format!("##{line}") } else { line.to_owned() }).collect();
    lines.join("\n") + "\n"
}

/// A type as the contract writes it.
fn shown(resolve: &Resolve, of: &Type) -> String {
    let Type::Id(id) = of else { return format!("{of:?}").to_lowercase() };
    let definition = &resolve.types[*id];
    if let Some(name) = &definition.name {
        return name.clone();
    }
    let option = |of: &Option<Type>| of.as_ref().map_or_else(|| "_".to_owned(), |of| shown(resolve, of));
    match &definition.kind {
        TypeDefKind::List(of) => format!("list<{}>", shown(resolve, of)),
        TypeDefKind::Option(of) => format!("option<{}>", shown(resolve, of)),
        TypeDefKind::Result(result) => match (&result.ok, &result.err) {
            (Some(ok), None) => format!("result<{}>", shown(resolve, ok)),
            (ok, err) => format!("result<{}, {}>", option(ok), option(err)),
        },
        TypeDefKind::Tuple(tuple) => {
            let types: Vec<String> = tuple.types.iter().map(|of| shown(resolve, of)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => {
            resolve.types[*id].name.clone().unwrap_or_default()
        }
        other => other.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_code_are_none() {
        assert_eq!(links("see [a](b.md#c) and `[x](y)`\n```\n[no](z)\n```\n[d](e)"), ["b.md#c", "e"]);
    }

    #[test]
    fn anchors_are_made_of_headings() {
        assert!(anchors("# The failure table\ntext").contains("the-failure-table"));
        assert!(anchors("### record `agents`").contains("record-agents"));
    }
}
