mod echo;
mod fabric;
mod hostile;
mod negotiation;
mod queue;
mod transport;
