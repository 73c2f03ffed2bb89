//! Makes everything that an event of the catalogue needs out of one entry: its type, its variant, its reading, its
//! line in [`catalogue`](super::catalogue()) and its documentation with an example that is run.

/// The whole catalogue. One entry reads:
///
/// ```text
/// "deal.close" DealClose Yes            the CRM's name, the type's name, a `Delivered`
///     "When it is fired."
///     {
///         did: u64 = "A field.",         type and doc; a u64 has to be there, everything else may be missing
///         user_uid ["userUID"]: … = "",  the CRM's name of the field, where it differs; more names: the first that holds
///     }
///     [("did", "4")] => data.did == 4;   the example's fields, and what holds for it
/// ```
macro_rules! events {
    ($(
        $name:literal $event:ident $delivered:ident
            $when:literal
            { $($field:ident $([$($wire:literal),+])?: $type:ty = $doc:literal,)* }
            $example:tt => $check:expr;
    )*) => {
        $(
            #[doc = concat!("`", $name, "`. ", $when)]
            #[doc = ""]
            #[doc = concat!("Delivered by a stock CRM: [`", stringify!($delivered), "`](Delivered::", stringify!($delivered), ").")]
            #[doc = ""]
            /// # Example
            /// ```
            /// use salesman_plugin_sdk::{EventData, testing};
            ///
            #[doc = concat!("let event = testing::event(\"", $name, "\", &", stringify!($example), ");")]
            #[doc = concat!("let EventData::", stringify!($event), "(data) = event.data()? else { unreachable!() };")]
            #[doc = concat!("assert!(", stringify!($check), ");")]
            /// # Ok::<(), salesman_plugin_sdk::Error>(())
            /// ```
            #[derive(Debug, Clone, PartialEq)]
            #[non_exhaustive]
            pub struct $event {
                $(
                    #[doc = $doc]
                    pub $field: $type,
                )*
            }

            impl $event {
                fn read(fields: &Fields<'_>) -> Result<Self> {
                    Ok(Self { $($field: fields.get(events!(@names $field $([$($wire),+])?))?,)* })
                }
            }
        )*

        /// An event in the type of its name. More names may come, so a `match` needs a last arm.
        ///
        /// # Example
        /// ```
        /// use salesman_plugin_sdk::{EventData, testing};
        ///
        /// let text = match testing::event("invoice.doit", &[("id", "1"), ("did", "4"), ("summa", "400")]).data()? {
        ///     EventData::InvoiceDoit(paid) => paid.summa.map(|summa| format!("{summa} paid for deal {}", paid.did)),
        ///     _ => None,
        /// };
        /// assert_eq!(text.as_deref(), Some("400 paid for deal 4"));
        /// # Ok::<(), salesman_plugin_sdk::Error>(())
        /// ```
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum EventData {
            $(
                #[doc = concat!("`", $name, "`.")]
                $event($event),
            )*
            /// A name outside the catalogue. [`Event::fields`](crate::Event::fields) holds what came.
            Other,
        }

        impl EventData {
            pub(super) fn read(name: &str, fields: &Map<String, Value>) -> Result<Self> {
                let fields = Fields { event: name, map: fields };
                match name {
                    $($name => $event::read(&fields).map(Self::$event),)*
                    _ => Ok(Self::Other),
                }
            }
        }

        /// The events that the CRM knows, family by family. Measured on version 2025.4.
        ///
        /// # Example
        /// ```
        /// use salesman_plugin_sdk::{Delivered, catalogue};
        ///
        /// let entry = catalogue().iter().find(|entry| entry.name == "contract.delete").expect("it is known");
        /// assert_eq!(entry.fields, ["deid", "did"]);
        /// assert_eq!(entry.delivered, Delivered::ApiOnly);
        /// ```
        pub fn catalogue() -> &'static [CatalogueEntry] {
            &[$(CatalogueEntry {
                name: $name,
                fields: &[$(events!(@name $field $([$($wire),+])?),)*],
                delivered: Delivered::$delivered,
                when: $when,
            },)*]
        }
    };

    (@names $field:ident) => { &[stringify!($field)] };
    (@names $field:ident [$($wire:literal),+]) => { &[$($wire),+] };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident [$wire:literal $(, $other:literal)*]) => { $wire };
}

pub(super) use events;
