//! Pages of lists.

/// Defines list types: one page and how many there are in all.
macro_rules! pages {
    ($($name:ident of $item:ident),+ $(,)?) => {$(
        /// One page.
        #[derive(async_graphql::SimpleObject)]
        #[graphql(rename_fields = "snake_case")]
        pub(crate) struct $name {
            items: Vec<Option<$item>>,
            total_count: i32,
        }

        impl<T: Into<$item>> From<quarterdeck_control::store::listing::Page<T>> for $name {
            fn from(page: quarterdeck_control::store::listing::Page<T>) -> Self {
                Self {
                    items: page.items.into_iter().map(|row| Some(row.into())).collect(),
                    total_count: i32::try_from(page.total).unwrap_or(i32::MAX),
                }
            }
        }
    )+};
}
pub(crate) use pages;
