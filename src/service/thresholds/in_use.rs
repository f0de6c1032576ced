//! At which rates a gallery decides, whatever its policy says it by.

use super::super::serving::Serving;
use super::super::{ServiceError, Services};
use super::Authority;
use crate::evaluation::{RatesInUse, any_of, each_of};
use crate::gallery::{Gallery, Policy};

impl Services {
    /// The rates of strangers at which a gallery decides if a request says nothing.
    pub(in super::super) async fn rates_in_use(
        &self,
        serving: &Serving,
        gallery: &Gallery,
    ) -> Result<RatesInUse, ServiceError> {
        let authority = self.authority(serving, gallery.id).await?;
        Ok(authority.rates(gallery.policy.unwrap_or_else(|| serving.policy())))
    }
}

impl Authority<'_> {
    /// Of a threshold nobody knows the rate if the model has none; the server's share of strangers stands in.
    fn rates(&self, policy: Policy) -> RatesInUse {
        let subjects = self.subjects.max(1) as f64;
        let fmr = match policy {
            Policy::Fmr(rate) => Some(rate),
            Policy::Threshold(threshold) => self.curve().map(|curve| curve.rate(f64::from(threshold))),
            Policy::Fpir(fpir) => return RatesInUse { fmr: each_of(subjects, fpir), fpir },
        };
        match fmr {
            Some(fmr) => RatesInUse { fmr, fpir: any_of(subjects, fmr) },
            None => self.rates(Policy::Fpir(self.serving.fpir)),
        }
    }
}
