//! Which containers are on the networks of a driver, as the engine tells it: for a driver that was restarted
//! while they run.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Engine, EngineError, http};

/// A running container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendant {
    /// The network's id.
    pub network: String,
    /// The id of the place.
    pub endpoint: String,
    /// The container's name.
    pub container: String,
    /// Where the engine has mounted its network namespace.
    pub sandbox: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    containers: Option<BTreeMap<String, Member>>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    sandbox_key: String,
}

impl Engine {
    /// Asks for the containers on all networks of a driver. One that stops meanwhile is left out.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: it cannot be asked, or its answer cannot be read.
    pub async fn on_networks_of(&self, driver: &str) -> Result<Vec<Attendant>, EngineError> {
        let filters = http::escaped(&serde_json::json!({ "driver": [driver] }).to_string());
        let networks: Vec<Listed> = self.get(&format!("/networks?filters={filters}")).await?;
        let mut found = Vec::new();
        for Listed { id: network } in networks {
            let Some(Network { containers }) =
                self.get_if_there(&format!("/networks/{network}")).await?
            else {
                continue;
            };
            for (id, member) in containers.unwrap_or_default() {
                let path = format!("/containers/{id}/json");
                let Some(container) = self.get_if_there::<Container>(&path).await? else {
                    continue;
                };
                let sandbox = container.network_settings.sandbox_key;
                if !sandbox.is_empty() {
                    found.push(Attendant {
                        network: network.clone(),
                        endpoint: member.endpoint,
                        container: member.name,
                        sandbox,
                    });
                }
            }
        }
        Ok(found)
    }

    async fn get_if_there<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
    ) -> Result<Option<T>, EngineError> {
        match self.get(path).await {
            Err(EngineError::Refused { status: 404, .. }) => Ok(None),
            answer => answer.map(Some),
        }
    }
}
