//! Reads lines `CHAIN ANCHORS TIME LIBRARY` from standard input: two PEM files (leaf first), epoch seconds, and
//! `aws-lc` (linkerd2-proxy since v2.312.0) or `ring` (before). Prints one line for each: `accepted`, or why not.
//!
//! The rules are those of linkerd2-proxy: linkerd/meshtls/src/creds.rs and creds/verify.rs, linkerd/rustls/src/crypto.rs.

use rustls_pki_types::{pem::PemObject, CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::{error::Error, fs, io, time::Duration};
use webpki::{anchor_from_trusted_cert, aws_lc_rs, ring, EndEntityCert, KeyUsage};

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

static AWS_LC: Algorithms = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P256_SHA512,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::ECDSA_P384_SHA512,
    aws_lc_rs::ECDSA_P521_SHA256,
    aws_lc_rs::ECDSA_P521_SHA384,
    aws_lc_rs::ECDSA_P521_SHA512,
    aws_lc_rs::ED25519,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    aws_lc_rs::RSA_PKCS1_3072_8192_SHA384,
];

static RING: Algorithms = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
    ring::RSA_PKCS1_3072_8192_SHA384,
];

fn main() -> io::Result<()> {
    for line in io::stdin().lines() {
        match judge(&line?) {
            Ok(()) => println!("accepted"),
            Err(problem) => println!("{}", problem.to_string().replace('\n', " ")),
        }
    }
    Ok(())
}

fn judge(line: &str) -> Result<(), Box<dyn Error>> {
    let [chain, anchors, time, library] = line.split('\t').collect::<Vec<_>>()[..] else {
        return Err("four fields were expected".into());
    };
    let algorithms = if library == "ring" { RING } else { AWS_LC };
    let roots = read(anchors)?;
    let roots: Vec<TrustAnchor<'_>> = roots.iter().filter_map(|one| anchor_from_trusted_cert(one).ok()).collect();
    if roots.is_empty() {
        return Err("no trust roots loaded".into());
    }
    let chain = read(chain)?;
    let (first, others) = chain.split_first().ok_or("no certificate")?;
    let leaf = EndEntityCert::try_from(first)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(time.parse()?));
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        leaf.verify_for_usage(algorithms, &roots, others, now, usage, None, None)?;
    }
    Ok(())
}

/// All certificates of a file, or the first error, as linkerd2-proxy reads its trust anchors.
fn read(path: &str) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let pem = fs::read(path)?;
    Ok(CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>()?)
}
