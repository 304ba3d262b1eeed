//! Rule `invented`: what comes was published before, under that topic and at least at that QoS.

use std::collections::HashMap;

use super::world::World;
use super::{Findings, Rule};
use crate::record::What;

pub(super) fn check(world: &World<'_>, findings: &mut Findings<'_>) {
    let mut deleted: HashMap<&str, usize> = HashMap::new();
    for (place, event) in world.events.iter().enumerate() {
        match &event.what {
            What::Publish { topic, empty: true, .. } => {
                deleted.entry(topic).or_insert(place);
            }
            What::ReceivedEmpty { topic, .. } if !deleted.contains_key(topic.as_str()) => {
                let what = || format!("a deletion came under {topic}, and nobody deleted");
                findings.add(Rule::Invented, what, &[place]);
            }
            What::Received { message, topic, qos, .. } => {
                let name = || format!("{} {}", message.publisher, message.number);
                let known = world.message(message).map(|number| &world.messages[number]);
                let Some(known) = known.filter(|known| known.first < place && !known.empty) else {
                    let what = || format!("{} came, and nobody had published it", name());
                    findings.add(Rule::Invented, what, &[place]);
                    continue;
                };
                if world.topics.names[known.topic] != topic {
                    let what = || format!("{} came under another topic", name());
                    findings.add(Rule::Invented, what, &[known.first, place]);
                } else if known.qos < *qos {
                    let what = || format!("{} came at a higher QoS than it has", name());
                    findings.add(Rule::Invented, what, &[known.first, place]);
                }
            }
            _ => {}
        }
    }
}
