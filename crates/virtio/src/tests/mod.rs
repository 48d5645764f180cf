mod echo;
mod negotiation;
mod queue;
mod transport;
