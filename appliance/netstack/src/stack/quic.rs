//! QUIC's side of the stack: who listens, who calls, and the secrets of both.

use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, HashedConnectionIdGenerator, ServerConfig, TransportConfig};
use ring::rand::{SecureRandom, SystemRandom};

use super::config::{StackConfig, StackError};
use crate::stream::{Allowed, KeyPair, PublicKey, tls, transport};

/// QUIC's endpoint, which accepts whoever `allowed` lists, and how it takes callers in.
pub(super) fn listener(
    config: &StackConfig,
    mtu: u16,
    identity: &KeyPair,
    allowed: &Allowed,
) -> Result<(Endpoint, Arc<ServerConfig>), StackError> {
    let tls = tls::server(identity, allowed.clone()).map_err(of_tls)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(of_tls)?;
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(token_key()?));
    server
        .migration(false)
        .max_incoming(config.limits.handshakes_max)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(256 << 10)
        .retry_token_lifetime(config.limits.handshake_timeout);
    let server = Arc::new(server);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key(identity)));
    let datagram = transport::datagram_of(mtu, config.address.is_ipv6());
    endpoint.max_udp_payload_size(datagram).map_err(of_tls)?;
    let cid_key = cid_key(identity);
    endpoint.grease_quic_bit(false);
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    Ok((Endpoint::new(Arc::new(endpoint), Some(Arc::clone(&server)), true, None), server))
}

/// How we call a peer that must have the key `peer`.
pub(super) fn caller(
    identity: &KeyPair,
    peer: PublicKey,
    transport: TransportConfig,
) -> Result<ClientConfig, StackError> {
    let tls = tls::client(identity, peer).map_err(of_tls)?;
    let crypto = QuicClientConfig::try_from(tls).map_err(of_tls)?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport));
    Ok(client)
}

/// What TLS or QUIC refuses.
pub(super) fn of_tls(error: impl ToString) -> StackError {
    StackError::Tls(error.to_string())
}

fn random<const N: usize>() -> Result<[u8; N], StackError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StackError::Tls("no random bytes".to_owned()))?;
    Ok(bytes)
}

fn token_key() -> Result<ring::hkdf::Prk, StackError> {
    Ok(ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&random::<64>()?))
}

/// The same after a restart, so that a peer whose connection we no longer know learns it at once (RFC 9000 section
/// 10.3) and need not wait for the idle timeout.
fn derived(identity: &KeyPair, purpose: &[u8]) -> ring::hmac::Tag {
    ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, identity.to_pkcs8()), purpose)
}

fn reset_key(identity: &KeyPair) -> ring::hmac::Key {
    ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived(identity, b"godwit stateless reset").as_ref())
}

fn cid_key(identity: &KeyPair) -> u64 {
    let tag = derived(identity, b"godwit connection ids");
    tag.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
