SELECT queue_now()
