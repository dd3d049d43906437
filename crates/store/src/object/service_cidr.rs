//! ServiceCIDRs, `networking.k8s.io/v1`.

use weft_model::{ObjectName, ServiceCidr};

use super::ObjectError;
use super::network::cidrs;
use super::raw::{Meta, ServiceCidrSpec};

pub(super) fn service_cidr(meta: &Meta, spec: &ServiceCidrSpec) -> Result<ServiceCidr, ObjectError> {
    let name = ObjectName::new(&meta.name).map_err(|e| ObjectError::at("metadata.name", e))?;
    let cidrs = cidrs("spec.cidrs", &spec.cidrs)?;
    match cidrs[..] {
        [] => Err(ObjectError::at("spec.cidrs", "it is empty; give a block, or one of each family")),
        [_] => Ok(ServiceCidr { name, cidrs }),
        [a, b] if a.family() != b.family() => Ok(ServiceCidr { name, cidrs }),
        _ => {
            let reason =
                "there is at most one block of each family; give further ones an object of their own";
            Err(ObjectError::at("spec.cidrs", reason))
        }
    }
}
