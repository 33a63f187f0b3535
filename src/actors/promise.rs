//! The return value of a handler that may answer later.

use std::cell::RefCell;
use std::rc::Rc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};

/// The sender of a message, who waits for an answer of type `T`.
#[derive(Debug)]
pub struct Caller<T>(Rc<RefCell<Option<OneshotSender<T>>>>);

impl<T> Caller<T> {
    /// Returns the caller and the [`Promise`] to return from the handler.
    pub fn keep() -> (Self, Promise<T>) {
        let place = Rc::new(RefCell::new(None));
        (Self(place.clone()), Promise::Later(Self(place)))
    }

    /// Tells whether the caller no longer waits.
    pub fn has_gone(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(OneshotSender::is_closed)
    }

    /// Gives the answer. If the caller no longer waits, the answer is dropped.
    pub fn answer(self, value: T) {
        if let Some(sender) = self.0.borrow_mut().take() {
            drop(sender.send(value));
        }
    }
}

/// The return value of a handler: its answer, or the promise of one.
///
/// Unlike a future, a promise spawns no task for each answer.
#[derive(Debug)]
pub enum Promise<T> {
    /// The answer itself.
    Now(T),
    /// The caller is kept elsewhere and gets its answer later, by [`Caller::answer`].
    Later(Caller<T>),
}

impl<A, M> MessageResponse<A, M> for Promise<M::Result>
where
    A: Actor,
    M: Message,
{
    fn handle(self, _: &mut A::Context, sender: Option<OneshotSender<M::Result>>) {
        match (self, sender) {
            (Promise::Now(value), Some(sender)) => drop(sender.send(value)),
            (Promise::Now(value), None) => drop(value),
            (Promise::Later(caller), sender) => *caller.0.borrow_mut() = sender,
        }
    }
}

#[cfg(test)]
mod tests {
    use actix::{Context, Handler};

    use super::*;

    #[derive(Default)]
    struct Keeper(Vec<Caller<()>>);

    impl Actor for Keeper {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Ask;

    impl Handler<Ask> for Keeper {
        type Result = Promise<()>;

        fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> Promise<()> {
            let (caller, answer) = Caller::keep();
            self.0.push(caller);
            answer
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<bool>")]
    struct Gone;

    impl Handler<Gone> for Keeper {
        type Result = Vec<bool>;

        fn handle(&mut self, _: Gone, _: &mut Context<Self>) -> Vec<bool> {
            self.0.iter().map(Caller::has_gone).collect()
        }
    }

    #[actix::test]
    async fn a_caller_has_gone_that_no_longer_waits() {
        let keeper = Keeper::default().start();
        let (impatient, patient) = (keeper.send(Ask), keeper.send(Ask));
        assert_eq!(keeper.send(Gone).await, Ok(vec![false, false]));
        drop(impatient);
        assert_eq!(keeper.send(Gone).await, Ok(vec![true, false]));
        drop(patient);
    }
}
