pub mod mask; mod matcher; mod pattern; pub mod rules;
