//! What every manifest file may hold, read with its places.
