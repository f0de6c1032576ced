-- Subjects that nobody erases: what is asked of whom an answer names that is kept. A gallery that is erased takes its subjects
-- along, though they are deleted later.
create view present_subjects as select s.id, s.gallery_id from subjects s join galleries g on g.id = s.gallery_id
    where s.erased_at is null and g.erased_at is null;
