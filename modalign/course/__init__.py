"""The course: assignments from the chapters' exercises, marked where no student's code runs."""
