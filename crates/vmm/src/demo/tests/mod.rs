mod failure;
mod recording;
mod replay;
mod stage;
mod whole;
